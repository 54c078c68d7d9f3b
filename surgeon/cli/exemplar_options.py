"""The options of a run without images, and what follows from there being none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from surgeon.cli.options import combined, numbers, resolve_images
from surgeon.errors import OptionError

if TYPE_CHECKING:
    from surgeon.data import ImageConfig
    from surgeon.data.transforms import Transform
    from surgeon.operate.job import ExemplarJob

exemplar_options = combined(
    click.option(
        "--exemplars",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        metavar="N",
        help="Without --data: images to synthesize from the checkpoint, the classes spread evenly.",
    ),
    click.option(
        "--exemplar-steps",
        type=click.IntRange(1),
        metavar="N",
        help="Steps of making them; 200 by default, and fewer for a network that takes large images only.",
    ),
    click.option("--exemplar-size", metavar="H,W", help="Their height and width; the network's input size by default."),
    click.option(
        "--save-exemplars", type=click.Path(path_type=Path), metavar="DIR", help="Write them as PNG images too."
    ),
)

FIRST_WORDS = (
    "There is no --data: whatever needs images works on exemplars that are synthesized from the checkpoint, and no "
    "figure will be accuracy. A ResNet-50 takes about 5 minutes on two free cores, a small network seconds; an "
    "estimate for this one follows."
)
"""Said before any library is loaded: that alone can take longer than a reader waits."""

LEARNING_RATE = 0.003
"""Soft targets alone have a larger gradient than labels, and few images forgive less; docs/data-free.md has figures."""


def exemplar_job(values: dict[str, Any], seed: int) -> ExemplarJob:
    """Return what exemplars the command line asks for."""
    from surgeon.data.transforms import training_transform
    from surgeon.exemplars import SynthesisConfig
    from surgeon.exemplars.config import MOST_IN_BATCH
    from surgeon.operate.job import ExemplarJob

    config = SynthesisConfig(
        values["exemplars"],
        values["exemplar_steps"],
        _size(values["exemplar_size"]),
        seed,
        batch_size=min(MOST_IN_BATCH, values["batch_size"]),
    )

    def vary(images: ImageConfig) -> Transform:
        return training_transform(images, small=False, flip=True, auto_augment=values["aa"], erasing=values["reprob"])

    return ExemplarJob(config, lambda model: resolve_images(model, values), vary, values["save_exemplars"])


def _size(text: str | None) -> tuple[int, int] | None:
    size = numbers(text, "exemplar-size", int)
    if size is None:
        return None
    if len(size) not in (1, 2):
        raise OptionError(f"The option --exemplar-size is '{text}'.", "Give height and width, such as 224,224.")
    return size[0], size[-1]


def data_free_tuning(ctx: click.Context, values: dict[str, Any], teacher: str | None) -> str:
    """Change the defaults of fine-tuning for images that nobody took, and return the teacher.

    Without judged labels the network as it came is the only measure: its answers alone are learned.

    Args:
        ctx: tells what was given and what is a default.
        values: the options by name; those that were not given are changed.
        teacher: as it was given, or None.
    """
    defaults = {"teacher_weight": 1.0, "lr": LEARNING_RATE, "workers": 0}
    given = {name for name in defaults if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    values.update({name: value for name, value in defaults.items() if name not in given})
    return teacher or "original"
