"""The options of fine-tuning, which every command that fine-tunes has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.options import combined

if TYPE_CHECKING:
    from surgeon.tuning import TuningConfig

tuning_options = combined(
    click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Epochs of fine-tuning."),
    click.option("--opt", default="sgd", show_default=True, help="timm's name of the optimizer."),
    click.option("--lr", type=float, default=0.01, show_default=True, help="Learning rate."),
    click.option("--momentum", type=float, default=0.9, show_default=True, help="Of optimizers that have one."),
    click.option(
        "--weight-decay",
        type=float,
        default=1e-4,
        show_default=True,
        help="Of all weights but biases and normalization's.",
    ),
    click.option("--sched", default="cosine", show_default=True, help="timm's name of the schedule, or none."),
    click.option(
        "--warmup-epochs", type=click.IntRange(0), default=0, show_default=True, help="Of a linear rise to --lr."
    ),
    click.option("--smoothing", type=float, default=0.0, show_default=True, help="Label smoothing."),
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option(
        "--mixed-precision",
        type=click.Choice(["auto", "no", "fp16", "bf16"]),
        default="auto",
        show_default=True,
        help="What the device computes in; auto mixes on GPUs only.",
    ),
    click.option("--teacher", metavar="original|CKPT", help="Distil from the checkpoint as it came, or from another."),
    click.option(
        "--teacher-weight", type=float, default=0.5, show_default=True, help="The teacher's share of the loss."
    ),
    click.option(
        "--teacher-temperature", type=float, default=4.0, show_default=True, help="Softens the teacher's answers."
    ),
)

TUNING_NAMES = (
    "opt", "lr", "momentum", "weight_decay", "sched", "warmup_epochs", "smoothing", "clip_grad", "mixed_precision",
    "teacher_weight", "teacher_temperature",
)  # fmt: skip


def tuning_config(values: Mapping[str, Any], epochs: int, seed: int) -> TuningConfig:
    """Return the options of fine-tuning that the command line gives.

    Args:
        values: the command's values by parameter name.
        epochs: epochs of fine-tuning.
        seed: seed of everything random.

    Raises:
        OptionError: a value is out of its range.
    """
    from surgeon.tuning import TuningConfig

    return TuningConfig(epochs=epochs, seed=seed, **{name: values[name] for name in TUNING_NAMES})
