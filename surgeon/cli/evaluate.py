"""`surgeon evaluate CHECKPOINT --data DATA`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from surgeon.cli.network import network
from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    data_options,
    example_images,
    json_option,
    open_images,
    weights_option,
)
from surgeon.cli.unused_options import refuse_unused_of_data
from surgeon.errors import DataError


@click.command(name="evaluate")
@click.argument("checkpoint", type=CHECKPOINT)
@arch_option
@weights_option
@data_options(hold_out=0.0)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the held-out or limited images.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path,
    arch: str | None,
    weights: str | None,
    seed: int,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure a checkpoint's top-1, top-5 and loss on validation images."""
    if values["data"] is None:
        raise DataError("There are no images to evaluate on.", "Name some with --data.")
    refuse_unused_of_data(ctx, values["data"])
    from surgeon.cli import render
    from surgeon.cli.live import View
    from surgeon.data import check_classes, make_loader
    from surgeon.operate.images import check_input
    from surgeon.operate.inputs import num_outputs
    from surgeon.operate.skipping import Skipping
    from surgeon.tuning import evaluate, make_accelerator

    model = network(checkpoint, arch, weights)
    check_input(model, example_images(model, values["input_size"]))
    data = open_images(model, values, seed)
    check_classes(data, num_outputs(model))
    if not data.real:
        raise DataError(
            f"The labels of {data.name} are nobody's judgement, so right answers on it are not accuracy.",
            "Name real images with --data; the record of `surgeon apply` has the agreement on exemplars.",
        )
    for note in data.notes:
        render.say(note)
    loader = make_loader(data.val, batch_size=values["batch_size"], workers=values["workers"])
    skipping = Skipping(data, render.say)
    scores = evaluate(model, loader, accelerator=make_accelerator(), track=skipping.watched(View(render.ERR).track))
    skipped, _ = skipping.finish()
    if as_json:
        figures = {**dataclasses.asdict(scores), **({"skipped": skipped} if skipped else {})}
        render.echo(json.dumps({"checkpoint": str(checkpoint), "data": data.name, **figures}, indent=2))
    else:
        render.echo(
            f"top-1 {scores.top1:.2f} %   top-5 {scores.top5:.2f} %   loss {scores.loss:.4f}   "
            f"({scores.images} images{f', {skipped} of them stand-ins' if skipped else ''}, {scores.seconds:.1f} s)"
        )
