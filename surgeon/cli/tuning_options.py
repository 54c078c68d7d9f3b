"""The options of fine-tuning, which every command that fine-tunes shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.options import combined, numbers

if TYPE_CHECKING:
    from surgeon.tuning import TuningConfig


def _milestones(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    return numbers(text, "decay-milestones", float) or ()


optimizer_options = combined(
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
    click.option("--clip-grad", type=float, help="Largest norm of the gradient."),
    click.option(
        "--freeze",
        multiple=True,
        metavar="PATTERN",
        help="Modules or parameters to keep as they are: names or globs, e.g. stem, 'layer1.*' or '*.bn1'.",
    ),
    click.option(
        "--layer-decay",
        type=float,
        metavar="X",
        help="Every layer learns X times as fast as the one after it, in timm's order of layers.",
    ),
)

schedule_options = combined(
    click.option("--sched", default="cosine", show_default=True, help="timm's name of the schedule, or none."),
    click.option(
        "--warmup-epochs", type=click.IntRange(0), default=0, show_default=True, help="Of a linear rise to --lr."
    ),
    click.option(
        "--decay-rate", type=float, default=0.1, show_default=True, help="Factor of every step of step and multistep."
    ),
    click.option(
        "--decay-milestones",
        metavar="E,E",
        callback=_milestones,
        help="Epochs of multistep's steps; one half and three quarters of them by default.",
    ),
)

loss_options = combined(
    click.option("--smoothing", type=float, default=0.0, show_default=True, help="Label smoothing."),
    click.option("--teacher", metavar="original|CKPT", help="Distil from the checkpoint as it came, or from another."),
    click.option("--teacher-arch", metavar="ARCH", help="The architecture of --teacher CKPT, where it is another."),
    click.option(
        "--teacher-weight", type=float, default=0.5, show_default=True, help="The teacher's share of the loss."
    ),
    click.option(
        "--teacher-temperature", type=float, default=4.0, show_default=True, help="Softens the teacher's answers."
    ),
    click.option(
        "--orthogonal-loss",
        type=float,
        default=0.0,
        show_default=True,
        help="Weight of a term of the loss: how much the filters of each convolution overlap.",
    ),
    click.option(
        "--model-ema", is_flag=True, help="Evaluate and write a moving average of the weights, not the last ones."
    ),
    click.option("--model-ema-decay", type=float, default=0.9998, show_default=True, help="Decay of that average."),
)

augmentation_options = combined(
    click.option("--aa", metavar="POLICY", help="timm's augmentation policy: rand-m9-mstd0.5, augmix-m3-w3, 3a, …"),
    click.option("--reprob", type=float, default=0.0, show_default=True, help="Probability of random erasing."),
    click.option("--mixup", type=float, default=0.0, show_default=True, help="Alpha of mixup; 0 is none."),
    click.option("--cutmix", type=float, default=0.0, show_default=True, help="Alpha of cutmix; 0 is none."),
)

device_options = combined(
    click.option(
        "--mixed-precision",
        type=click.Choice(["auto", "no", "fp16", "bf16"]),
        default="auto",
        show_default=True,
        help="What the device computes in; auto mixes on GPUs only.",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Batches whose gradients make one update.",
    ),
    click.option(
        "--channels-last",
        type=click.Choice(["auto", "yes", "no"]),
        default="auto",
        show_default=True,
        help="Lay weights and images out channels-last; auto does on GPUs.",
    ),
    click.option(
        "--device-data",
        type=click.Choice(["auto", "yes", "no"]),
        default="auto",
        show_default=True,
        help="Decode a small data set once, and vary it on the device; auto does on GPUs.",
    ),
    click.option("--compile", is_flag=True, help="Train through torch.compile, where there is a compiler."),
)

tuning_options = combined(
    click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="Epochs of fine-tuning."),
    optimizer_options,
    schedule_options,
    augmentation_options,
    loss_options,
    device_options,
)


def tuning_config(values: Mapping[str, Any], epochs: int, seed: int) -> TuningConfig:
    """Return the options of fine-tuning as a configuration.

    Args:
        values: what click read, by the names of the configuration's fields; other names are passed over.
        epochs: epochs of fine-tuning.
        seed: seed of everything random.

    Raises:
        OptionError: a value is out of its range.
    """
    from surgeon.tuning import TuningConfig

    names = {field.name for field in dataclasses.fields(TuningConfig)} - {"epochs", "seed"}
    return TuningConfig(epochs=epochs, seed=seed, **{name: values[name] for name in names})
