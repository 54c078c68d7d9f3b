"""`surgeon report RECORD…`."""

from pathlib import Path

import click

from surgeon.cli.options import CHECKPOINT, arch_option, numbers, weights_option


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
@click.option("--input-size", metavar="C,H,W", help="Override the network's input size.")
def command(
    records: tuple[Path, ...],
    output: Path,
    figures: Path | None,
    overwrite: bool,
    checkpoint: Path | None,
    result: Path | None,
    arch: str | None,
    weights: str | None,
    input_size: str | None,
) -> None:
    """Make one HTML page of a run, or of several beside each other: give the control's record, too."""
    from surgeon.checkpoint import refuse_existing
    from surgeon.cli import render
    from surgeon.report import Files, make_report, read_record, write_report

    refuse_existing(output, overwrite)
    size = numbers(input_size, "input-size", int)
    report = make_report([read_record(path) for path in records], Files(checkpoint, result, arch, weights, size))
    write_report(report, output, figures, overwrite=overwrite)
    for panel in report.missing:
        render.say(f"Not shown: {panel.title}. {panel.reason} {panel.remedy}")
    render.echo(str(output))
