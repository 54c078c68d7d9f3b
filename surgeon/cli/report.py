"""`surgeon report RECORD…`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.options import CHECKPOINT, arch_option, data_options, numbers, open_images, weights_option
from surgeon.cli.unused_options import refuse_unused_of_data

if TYPE_CHECKING:
    from torch import nn

    from surgeon.report.images import Images


@click.command(name="report")
@click.argument("records", type=CHECKPOINT, nargs=-1, required=True, metavar="RECORD...")
@click.option("-o", "--output", type=CHECKPOINT, default=Path("report.html"), show_default=True, help="The page.")
@click.option("--figures", type=CHECKPOINT, metavar="DIR", help="Write the pictures as SVG files to this folder, too.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option(
    "--checkpoint",
    type=CHECKPOINT,
    metavar="FILE",
    help="The first run's input, if not where the record says.",
)
@click.option("--result", type=CHECKPOINT, metavar="FILE", help="Its output, likewise.")
@arch_option
@weights_option
@click.option("--layer", metavar="MODULE", help="Whose activations and channels are shown; the run's first target.")
@data_options(hold_out=0.1)
@click.pass_context
def command(
    ctx: click.Context,
    records: tuple[Path, ...],
    output: Path,
    figures: Path | None,
    overwrite: bool,
    checkpoint: Path | None,
    result: Path | None,
    arch: str | None,
    weights: str | None,
    layer: str | None,
    **values: Any,
) -> None:
    """Make one HTML page of a run, of several beside each other (give the control's record, too), or of a comparison.

    With --data, the images of the run, it shows activations and an ablation as well.
    """
    refuse_unused_of_data(ctx, values["data"])
    from surgeon.checkpoint.apart import check_apart
    from surgeon.cli import render
    from surgeon.operate.job_files import code_files, exemplar_files
    from surgeon.report.build import check_outputs, make_report, write_report
    from surgeon.report.comparison import ComparisonRecord, read_records
    from surgeon.report.networks import Files, named_files

    read_here = [("a record", path) for path in records]
    read_here += [("a checkpoint", path) for path in (checkpoint, result) if path is not None]
    read_here += [("the code of the network", path) for path in code_files(arch)]
    check_apart([("the page", output)], [*read_here, *exemplar_files(values["data"])])
    check_outputs(output, figures, overwrite=overwrite)
    size = numbers(values["input_size"], "input-size", int)
    read = [read_records(path) for path in records]
    runs = [run for one in read for run in (one.runs if isinstance(one, ComparisonRecord) else one)]
    check_apart([("the page", output)], [("a checkpoint", path) for run in runs for path in named_files(run)])
    images = None if values["data"] is None else partial(_open_images, values)
    report = make_report(read, Files(checkpoint, result, arch, weights, size), images, layer)
    write_report(report, output, figures, overwrite=overwrite)
    for panel in report.missing:
        render.say(f"Not shown: {panel.title}. {panel.reason} {panel.remedy}")
    render.echo(str(output))


def _open_images(values: dict[str, Any], model: nn.Module, seed: int) -> Images:
    from surgeon.cli import render
    from surgeon.cli.live import View
    from surgeon.data import check_classes, make_loader
    from surgeon.operate.inputs import num_outputs
    from surgeon.operate.skipping import Skipping
    from surgeon.report.images import Images
    from surgeon.tuning import make_accelerator

    data = open_images(model, values, seed)
    check_classes(data, num_outputs(model))
    calibration, val = (
        make_loader(images, batch_size=values["batch_size"], workers=values["workers"])
        for images in (data.calibration, data.val)
    )
    for note in data.notes:
        render.say(note)
    track = Skipping(data, render.say).watched(View(render.ERR).track)
    return Images(data.name, data.classes, data.real, calibration, val, make_accelerator(), track)
