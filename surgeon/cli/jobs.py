"""The job that a command line asks for, as far as all commands that write a checkpoint understand it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.options import combined, example_images, open_images
from surgeon.cli.recipes import recipe_file, recipe_notes, recipe_of
from surgeon.cli.tuning_options import tuning_config
from surgeon.cli.unused_options import refuse_unused

if TYPE_CHECKING:
    from surgeon.operate.job import Job

start_options = combined(
    click.option(
        "--init",
        type=click.Choice(["checkpoint", "random"]),
        default="checkpoint",
        show_default=True,
        help="The weights to start with; random ones need --data, and an --arch or a CHECKPOINT of the network.",
    ),
)


def check_argument(ctx: click.Context) -> None:
    """Refuse a command line without a checkpoint that needs one, and options that belong to one.

    Raises:
        click.UsageError: the weights are to be a checkpoint's, and none is named.
        OptionError: an option would do nothing without one.
    """
    if ctx.params["checkpoint"] is not None:
        return
    if ctx.params["init"] == "checkpoint":
        raise click.UsageError("Missing argument 'CHECKPOINT' (or '--init random' with '--arch').", ctx)
    refuse_unused(ctx, ["weights"], "without a CHECKPOINT")


def tuning_job(
    ctx: click.Context, values: Mapping[str, Any], teacher: str | None, changed: Mapping[str, Any] | None = None
) -> Job:
    """Return the job that fine-tunes and operates on nothing.

    Args:
        ctx: of the command.
        values: the options by name, as they were given or by default; those that are missing are the context's.
        teacher: as it was given, or what it is without images.
        changed: further parameters that the command has given other values, by name, for the recipe.

    Raises:
        OptionError: a value is out of its range.
    """
    from surgeon.operate.job import Job
    from surgeon.operate.job_files import exemplar_files
    from surgeon.report.card import card

    options = {**ctx.params, **values}
    data, seed = options["data"], options["seed"]
    return Job(
        checkpoint=options["checkpoint"],
        method=None,
        options={},
        layers=(),
        arch=options["arch"],
        images=None if data is None else lambda model: open_images(model, options, seed),
        example=lambda model: example_images(model, options["input_size"]),
        output=options["output"],
        overwrite=options["overwrite"],
        epochs=options["epochs"],
        tuning=tuning_config(options, options["epochs"], seed),
        teacher=teacher,
        partner=None,
        recalibrate=False,
        seed=seed,
        batch_size=options["batch_size"],
        workers=options["workers"],
        device_data=options["device_data"],
        weights=options["weights"],
        recipe=recipe_of(ctx, {**options, "teacher": teacher, **(changed or {})}),
        notes=recipe_notes(ctx),
        save_every=options["save_every"],
        restart=options["restart"],
        resume_changed=options["resume_changed"],
        init=options["init"],
        teacher_arch=options["teacher_arch"],
        also_read=(*recipe_file(ctx), *exemplar_files(data)),
        reports={} if options["model_card"] is None else {options["model_card"]: lambda record: card(record.to_dict())},
    )
