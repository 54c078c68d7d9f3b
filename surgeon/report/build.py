"""From records to the page and its pictures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint import refuse_existing, write_text
from surgeon.checkpoint.write import LEFTOVER, remove_leftovers
from surgeon.errors import OutputError, SurgeonError
from surgeon.report import ablation, activations
from surgeon.report.again import operated_again
from surgeon.report.comparison import ComparisonRecord, differences_charts
from surgeon.report.course import epochs_chart, stages_chart
from surgeon.report.distinct import distinct
from surgeon.report.groups import control_of, grouped
from surgeon.report.images import OpenImages
from surgeon.report.networks import Files, Networks, open_networks
from surgeon.report.page import Section, render
from surgeon.report.panel import Missing, Panel, Picture
from surgeon.report.records import Run
from surgeon.report.untrusted import in_folder
from surgeon.report.weights import weight_panels

PICTURE = re.compile(r"[a-z0-9-]+\.svg")
"""Names of the files of pictures."""


@dataclass(frozen=True)
class Report:
    """A page and its pictures.

    Attributes:
        html: the page.
        pictures: what is on it.
        missing: what is not, and why.

    Raises:
        ValueError: two pictures have the same key.
    """

    html: str
    pictures: tuple[Picture, ...]
    missing: tuple[Missing, ...]

    def __post_init__(self) -> None:
        if len({picture.key for picture in self.pictures}) < len(self.pictures):
            raise ValueError("Two pictures have the same key.")


def make_report(
    records: Sequence[tuple[Run, ...] | ComparisonRecord],
    files: Files,
    open_images: OpenImages | None = None,
    layer: str | None = None,
) -> Report:
    """Return the page of one run, or of several beside each other.

    Args:
        records: of runs and comparisons, at least one; what is there twice counts once. The pictures of weights are of
            the first run that is no control.
        files: where the networks are.
        open_images: opens the images for activations and ablation; None where there are none.
        layer: the module whose activations and channels these are; None for what the run operated on.
    """
    records, notes = distinct(records)
    comparisons = [one for one in records if isinstance(one, ComparisonRecord)]
    runs = [run for one in records for run in (one.runs if isinstance(one, ComparisonRecord) else one)]
    groups = grouped(runs)
    subject = next((run for run in runs if not run.is_control), runs[0])
    networks = open_networks(subject, control_of(subject, runs), files)
    weights = _weights(networks, subject)
    sections: tuple[Section, ...] = (
        Section("Figures", (*differences_charts(comparisons), stages_chart(groups), epochs_chart(groups))),
        Section("Weights", tuple(weights)),
        Section("On images", tuple(_answers(networks, subject, open_images, layer))),
    )
    for one in comparisons:
        of = f"{in_folder(one.path)}: " if len(comparisons) > 1 else ""
        notes += [f"{of}{note}" for note in (one.verdict, *one.notes)]
    if len(runs) > 1 and any(isinstance(panel, Picture) for panel in weights):
        notes.append(f"The pictures of networks are of {subject.title}; give another record first for its own.")
    sections += (Section("Runs that failed", tuple(one for each in comparisons for one in each.failed)),)
    panels = [panel for section in sections for panel in section.panels]
    return Report(
        render(groups, sections, notes, comparisons),
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
        figures: a folder for the pictures, made where it is missing, or None. Those of them that stand there already,
            as a call that was interrupted leaves them, stay.
        overwrite: replace files that exist.

    Raises:
        OutputError: see `check_outputs`; or a file cannot be written.
    """
    pictures = {f"{picture.key}.svg": picture.svg + "\n" for picture in report.pictures}
    check_outputs(output, figures, overwrite=overwrite, pictures=pictures)
    if figures is not None:
        _make_folder(figures)
        for name, svg in pictures.items():
            remove_leftovers(figures / name)
            if not _holds(figures / name, svg):
                write_text(figures / name, svg, overwrite)
    write_text(output, report.html, overwrite)


def check_outputs(
    output: Path, figures: Path | None, *, overwrite: bool, pictures: Mapping[str, str] | None = None
) -> None:
    """Check that a page and its pictures may be written, before any work is done for them.

    What processes that were killed have left of the page goes; what they have left of the pictures goes with those.

    Args:
        output: where the page will be.
        figures: the folder of the pictures, or None.
        overwrite: replace files that exist.
        pictures: what will be in the pictures, by the names of their files; None where that is not known yet, when any
            pictures may stand there.

    Raises:
        OutputError: the page exists, or there is something in the folder already, and `overwrite` is false.
    """
    remove_leftovers(output)
    refuse_existing(output, overwrite)
    if figures is None or not figures.exists():
        return
    if not figures.is_dir():
        raise OutputError(f"{figures} is no folder.", "Name another one with --figures.")
    if not overwrite and not all(_may_stay(path, pictures) for path in figures.iterdir()):
        raise OutputError(
            f"The folder {figures} is not empty.", "Pass --overwrite to replace pictures in it, or name another one."
        )


def _may_stay(path: Path, pictures: Mapping[str, str] | None) -> bool:
    if LEFTOVER.fullmatch(path.name):
        return True
    if pictures is None:
        return PICTURE.fullmatch(path.name) is not None
    return path.name in pictures and _holds(path, pictures[path.name])


def _holds(path: Path, text: str) -> bool:
    """Tell whether a file is there already as it will be, without reading one that is longer."""
    content = text.encode()
    try:
        return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Name another one.") from error
