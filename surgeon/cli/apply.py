"""`surgeon apply CHECKPOINT --method NAME`."""

import json
from pathlib import Path
from typing import Any

import click

from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    combined,
    data_options,
    example_images,
    json_option,
    key_values,
    layers_option,
    open_images,
    read_recipe,
)

tuning_options = combined(
    click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Epochs of fine-tuning."),
    click.option("--opt", default="sgd", show_default=True, help="timm's name of the optimizer."),
    click.option("--lr", type=float, default=0.01, show_default=True, help="Learning rate."),
    click.option("--momentum", type=float, default=0.9, show_default=True),
    click.option("--weight-decay", type=float, default=1e-4, show_default=True),
    click.option("--sched", default="cosine", show_default=True, help="timm's name of the schedule, or none."),
    click.option("--warmup-epochs", type=click.IntRange(0), default=0, show_default=True),
    click.option("--smoothing", type=float, default=0.0, show_default=True, help="Label smoothing."),
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option(
        "--mixed-precision", type=click.Choice(["auto", "no", "fp16", "bf16"]), default="auto", show_default=True
    ),
    click.option("--teacher", metavar="original|CKPT", help="Distil from the checkpoint as it came, or from another."),
    click.option(
        "--teacher-weight", type=float, default=0.5, show_default=True, help="The teacher's share of the loss."
    ),
    click.option("--teacher-temperature", type=float, default=4.0, show_default=True),
)

TUNING_NAMES = (
    "opt", "lr", "momentum", "weight_decay", "sched", "warmup_epochs", "smoothing", "clip_grad", "mixed_precision",
    "teacher_weight", "teacher_temperature",
)  # fmt: skip


@click.command(name="apply")
@click.argument("checkpoint", type=CHECKPOINT)
@click.option("--method", required=True, metavar="NAME", help="The method; `surgeon methods` lists them.")
@layers_option
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the method.")
@click.option("--every", type=click.IntRange(1), help="Repeat the operation every so many epochs.")
@arch_option
@data_options(hold_out=0.1)
@tuning_options
@click.option("-o", "--output", type=CHECKPOINT, help="The result; <stem>-<method>.safetensors by default.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--no-recalibrate", is_flag=True, help="Leave BatchNorm statistics as the operation made them.")
@click.option(
    "--dry-run", is_flag=True, help="Print the plan (every tensor, how many channels, what happens) and stop."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    callback=read_recipe,
    is_eager=True,
    expose_value=False,
    help="A TOML file with any of these options.",
)
@json_option
def command(
    checkpoint: Path,
    method: str,
    layers: tuple[str, ...],
    settings: tuple[str, ...],
    every: int | None,
    arch: str | None,
    epochs: int,
    teacher: str | None,
    output: Path | None,
    overwrite: bool,
    no_recalibrate: bool,
    dry_run: bool,
    seed: int,
    as_json: bool,
    **values: Any,
) -> None:
    """Reorganize or revive channels of CHECKPOINT, fine-tune it, and write the result beside it.

    \b
    surgeon apply --method sofm --layers layer4 resnet50.safetensors --data IMAGES --epochs 3
    """
    options = key_values(settings)
    if every is not None:
        options["every"] = str(every)
    from surgeon.cli import render
    from surgeon.operate.record import plan_dict
    from surgeon.operate.run import Job, plan_job, run_job
    from surgeon.tuning import TuningConfig

    tuning = TuningConfig(epochs=epochs, seed=seed, **{name: values[name] for name in TUNING_NAMES})
    job = Job(
        checkpoint=checkpoint,
        method=method,
        options=options,
        layers=layers,
        arch=arch,
        images=None if values["data"] is None else lambda model: open_images(model, values, seed),
        example=lambda model: example_images(model, values["input_size"]),
        output=output,
        overwrite=overwrite,
        epochs=epochs,
        tuning=tuning,
        teacher=teacher,
        recalibrate=not no_recalibrate,
        seed=seed,
        batch_size=values["batch_size"],
        workers=values["workers"],
    )
    if dry_run:
        planned = plan_job(job, render.progress)
        if as_json:
            render.echo(json.dumps(plan_dict(planned), indent=2, default=str))
        else:
            render.plan_table(planned)
        return
    record = run_job(job, track=render.progress, on_stage=render.stage_line, on_epoch=render.epoch_line, say=render.say)
    render.record_table(record, to_stderr=as_json)
    if as_json:
        render.echo(record.to_json().rstrip())
    else:
        render.echo(f"{job.result}\n{job.record}")
