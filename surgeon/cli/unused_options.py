"""Options that stand on the command line and would do nothing are refused: whoever gave them expects that they do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click
from click.core import ParameterSource

from surgeon.errors import OptionError

READ_FROM_DATA = ("limit", "hold_out", "data_root", "download", "skip_bad_images")
MADE_WITHOUT_DATA = ("exemplars", "exemplar_steps", "exemplar_size", "save_exemplars")
WITHOUT_DECAY_RATE = ("cosine", "tanh", "none")
NOT_WRITTEN_BY_A_DRY_RUN = ("save_exemplars", "tensorboard", "model_card")


def refuse_unused(ctx: click.Context, names: Collection[str], why: str) -> None:
    """Refuse options that were given on the command line.

    Those of a recipe are passed over, which may be the record of a run with other images.

    Args:
        ctx: of the command.
        names: the parameters' names; those that the command does not have are passed over.
        why: when they do nothing, as the end of a sentence.

    Raises:
        OptionError: one of them was given.
    """
    for option in ctx.command.params:
        if option.name in names and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise OptionError(f"The option {option.opts[-1]} does nothing {why}.", "Leave it out.")


def refuse_unused_of_data(ctx: click.Context, data: str | None) -> None:
    """Refuse options that do nothing with these images, or without any.

    Args:
        ctx: of the command.
        data: `--data`, or None.

    Raises:
        OptionError: one of them was given.
    """
    if data is None:
        refuse_unused(ctx, READ_FROM_DATA, "without --data")
        return
    refuse_unused(ctx, MADE_WITHOUT_DATA, "with --data: it is for images that are made where there are none")
    from surgeon.data import named
    from surgeon.data.synthetic import is_synthetic

    family = named.prefix(data)
    if is_synthetic(data):
        refuse_unused(ctx, ["hold_out"], f"with --data {data}: all of these images are trained on")
    if is_synthetic(data) or data == "digits":
        refuse_unused(ctx, ["skip_bad_images"], f"with --data {data}: these images are in no files of their own")
    if not family:
        refuse_unused(ctx, ["data_root"], f"with --data {data}: it is for torch/…, hfds/… and other names of timm's")
    if family != named.TORCH:
        refuse_unused(ctx, ["download"], f"with --data {data}: it is for torch/…")


def refuse_unused_of_method(ctx: click.Context, method: str) -> None:
    """Refuse options that do nothing with a method.

    Args:
        ctx: of the command.
        method: its name, known or not.

    Raises:
        OptionError: one of them was given.
    """
    from surgeon.methods import METHODS

    if method in METHODS and METHODS[method].phases is not None:
        refuse_unused(
            ctx,
            ["no_recalibrate"],
            f"with {method}, which edits while the network is trained and measures nothing anew",
        )


def refuse_unused_of_tuning(ctx: click.Context, values: Mapping[str, Any], teacher: str | None) -> None:
    """Refuse options of fine-tuning that belong to another one which was not given.

    Args:
        ctx: of the command.
        values: what click read, by name.
        teacher: `--teacher`, or None; without images it has a default.

    Raises:
        OptionError: one of them was given.
    """
    if not values["model_ema"]:
        refuse_unused(ctx, ["model_ema_decay"], "without --model-ema")
    if teacher is None:
        refuse_unused(ctx, ["teacher_weight", "teacher_temperature"], "without --teacher")
    if teacher in (None, "original"):
        refuse_unused(ctx, ["teacher_arch"], "without --teacher CKPT")
    sched = values["sched"]
    if sched != "multistep":
        refuse_unused(ctx, ["decay_milestones"], f"with --sched {sched}: it is for multistep")
    if sched in WITHOUT_DECAY_RATE:
        refuse_unused(ctx, ["decay_rate"], f"with --sched {sched}: it is for step and multistep")
