"""From records to the page and its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint import refuse_existing, write_text
from surgeon.errors import OutputError, SurgeonError
from surgeon.report import ablation, activations
from surgeon.report.again import operated_again
from surgeon.report.course import epochs_chart, stages_chart
from surgeon.report.groups import grouped
from surgeon.report.images import OpenImages
from surgeon.report.networks import Files, Networks, open_networks
from surgeon.report.page import Section, render
from surgeon.report.panel import Missing, Panel, Picture
from surgeon.report.records import Run
from surgeon.report.weights import weight_panels


@dataclass(frozen=True)
class Report:
    """A page and its pictures.

    Attributes:
        html: the page.
        pictures: what is on it.
        missing: what is not, and why.
    """

    html: str
    pictures: tuple[Picture, ...]
    missing: tuple[Missing, ...]


def make_report(
    runs: Sequence[Run],
    files: Files,
    open_images: OpenImages | None = None,
    layer: str | None = None,
) -> Report:
    """Return the page of one run, or of several beside each other.

    Args:
        runs: the records, at least one; the pictures of weights are of the first that is no control.
        files: where the networks are.
        open_images: opens the images for activations and ablation; None where there are none.
        layer: the module whose activations and channels these are; None for what the run operated on.
    """
    groups = grouped(runs)
    subject = next((run for run in runs if not run.is_control), runs[0])
    control = next((run for run in runs if run.is_control and run.sha256 == subject.sha256), None)
    networks = open_networks(subject, control, files)
    weights = _weights(networks, subject)
    sections = (
        Section("Figures", (stages_chart(groups), epochs_chart(groups))),
        Section("Weights", tuple(weights)),
        Section("On images", tuple(_answers(networks, subject, open_images, layer))),
    )
    notes = []
    if len(runs) > 1 and any(isinstance(panel, Picture) for panel in weights):
        notes = [f"The pictures of networks are of {subject.path.name}; give another record first for its own."]
    panels = [panel for section in sections for panel in section.panels]
    return Report(
        render(groups, sections, notes),
        tuple(panel for panel in panels if isinstance(panel, Picture)),
        tuple(panel for panel in panels if isinstance(panel, Missing)),
    )


def _weights(networks: Networks | tuple[Missing, ...], subject: Run) -> list[Panel]:
    if isinstance(networks, Networks):
        return [*weight_panels(networks, subject), *networks.missing]
    titles = ("Scales γ of BatchNorm", "Utilization", "Overlap of the filters", "Coupling graph")
    return [*(_without_networks(title) for title in titles), *networks]


def _answers(
    networks: Networks | tuple[Missing, ...], subject: Run, open_images: OpenImages | None, layer: str | None
) -> list[Panel]:
    titles = (activations.TITLE, ablation.TITLE)
    if not isinstance(networks, Networks):
        return [_without_networks(title) for title in titles]
    if open_images is None:
        return [Missing(title, "There are no images to ask about.", "Name some with --data.") for title in titles]
    try:
        images = open_images(next(iter(networks.models.values())), subject.seed or 0)
    except SurgeonError as error:
        return [Missing(title, error.problem, error.remedy) for title in titles]
    models, panels = dict(networks.models), []
    if networks.original is not None and not subject.is_control:
        between = operated_again(subject, models[networks.original], networks.graph, images)
        if isinstance(between, Missing):
            panels.append(between)
        else:
            models = {networks.original: models.pop(networks.original), **between, **models}
    shown = activations.activations_chart(models, networks.graph, subject, images, layer)
    without = ablation.ablation_chart(networks.models, networks.graph, subject, images, layer)
    return [shown, without, *panels]


def _without_networks(title: str) -> Missing:
    return Missing(title, "The networks of the run could not be opened.", "The reasons stand below.")


def write_report(report: Report, output: Path, figures: Path | None = None, *, overwrite: bool = False) -> None:
    """Write a page, and its pictures as files; each appears whole or not at all, and none before all may be written.

    Args:
        report: the page.
        output: where to.
        figures: a folder for the pictures, made where there is none, or None.
        overwrite: replace files that exist.

    Raises:
        OutputError: a file exists and `overwrite` is false, or it cannot be written.
    """
    refuse_existing(output, overwrite)
    files = {} if figures is None else {figures / f"{picture.key}.svg": picture.svg for picture in report.pictures}
    if figures is not None:
        _make_folder(figures)
    for path in files:
        refuse_existing(path, overwrite)
    for path, svg in files.items():
        write_text(path, svg + "\n", overwrite)
    write_text(output, report.html, overwrite)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Name another one.") from error
