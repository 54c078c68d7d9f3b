"""`surgeon finetune CHECKPOINT --data DATA`."""

from pathlib import Path
from typing import Any

import click

from surgeon.cli.exemplar_options import data_free_tuning
from surgeon.cli.jobs import check_argument, start_options, tuning_job
from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    data_options,
    json_option,
    output_options,
    seed_option,
    weights_option,
)
from surgeon.cli.recipes import recipe_option
from surgeon.cli.running import run_and_show, tensorboard_option
from surgeon.cli.tuning_options import tuning_options
from surgeon.cli.unused_options import refuse_unused_of_data, refuse_unused_of_tuning


@click.command(name="finetune")
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@start_options
@arch_option
@weights_option
@data_options(hold_out=0.1)
@tuning_options
@output_options
@seed_option
@recipe_option
@tensorboard_option
@json_option
@click.option(
    "--generations",
    type=click.IntRange(1),
    metavar="N",
    help="With --init random and a teacher: train N networks, each with the one before as its teacher.",
)
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path | None,
    teacher: str | None,
    tensorboard: Path | None,
    as_json: bool,
    generations: int | None,
    **values: Any,
) -> None:
    """Fine-tune CHECKPOINT without any operation before, and write the result beside it.

    This is the control of every comparison: what `surgeon apply` gains must be more than what fine-tuning alone does
    with the same options and seed.

    \b
    surgeon finetune resnet50.safetensors --data IMAGES --epochs 3
    """
    check_argument(ctx)
    if values["data"] is not None:
        refuse_unused_of_data(ctx, values["data"])
    from surgeon.data.synthetic import is_synthetic

    if values["data"] is not None and is_synthetic(values["data"]):
        teacher = data_free_tuning(ctx, values, teacher)
    refuse_unused_of_tuning(ctx, values, teacher)
    from surgeon.cli import render
    from surgeon.operate.generations import generations as jobs_of
    from surgeon.operate.generations import unfinished

    job = tuning_job(ctx, values, teacher)
    if generations is None:
        run_and_show(job, as_json=as_json, tensorboard=tensorboard)
        return
    for one in unfinished(jobs_of(job, generations), render.say):
        events = None if tensorboard is None else tensorboard / one.result.stem
        run_and_show(one, as_json=as_json, tensorboard=events, last=one.result == job.result)
