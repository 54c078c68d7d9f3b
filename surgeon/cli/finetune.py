"""`surgeon finetune CHECKPOINT --data DATA`."""

from pathlib import Path
from typing import Any

import click

from surgeon.cli.exemplar_options import data_free_tuning
from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    data_options,
    example_images,
    json_option,
    open_images,
    output_options,
    seed_option,
    weights_option,
)
from surgeon.cli.recipes import recipe_notes, recipe_of, recipe_option
from surgeon.cli.running import run_and_show, tensorboard_option
from surgeon.cli.tuning_options import tuning_config, tuning_options
from surgeon.cli.unused_options import refuse_unused_of_data, refuse_unused_of_tuning


@click.command(name="finetune")
@click.argument("checkpoint", type=CHECKPOINT)
@arch_option
@weights_option
@data_options(hold_out=0.1)
@tuning_options
@output_options
@seed_option
@recipe_option
@tensorboard_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path,
    arch: str | None,
    weights: str | None,
    epochs: int,
    teacher: str | None,
    output: Path | None,
    overwrite: bool,
    seed: int,
    tensorboard: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Fine-tune CHECKPOINT without any operation before, and write the result beside it.

    This is the control of every comparison: what `surgeon apply` gains must be more than what fine-tuning alone does
    with the same options and seed.

    \b
    surgeon finetune resnet50.safetensors --data IMAGES --epochs 3
    """
    if values["data"] is not None:
        refuse_unused_of_data(ctx, values["data"])
    from surgeon.data.synthetic import is_synthetic
    from surgeon.operate.job import Job

    if values["data"] is not None and is_synthetic(values["data"]):
        teacher = data_free_tuning(ctx, values, teacher)
    refuse_unused_of_tuning(ctx, values, teacher)
    job = Job(
        checkpoint=checkpoint,
        method=None,
        options={},
        layers=(),
        arch=arch,
        images=None if values["data"] is None else lambda model: open_images(model, values, seed),
        example=lambda model: example_images(model, values["input_size"]),
        output=output,
        overwrite=overwrite,
        epochs=epochs,
        tuning=tuning_config(values, epochs, seed),
        teacher=teacher,
        partner=None,
        recalibrate=False,
        seed=seed,
        batch_size=values["batch_size"],
        workers=values["workers"],
        device_data=values["device_data"],
        weights=weights,
        recipe=recipe_of(ctx, {**values, "teacher": teacher}),
        notes=recipe_notes(ctx),
        save_every=values["save_every"],
        restart=values["restart"],
        resume_changed=values["resume_changed"],
    )
    run_and_show(job, as_json=as_json, tensorboard=tensorboard)
