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

USUAL_STEPS = 200
"""What `--exemplar-steps` is for this estimate, where it is left out."""

STEP, EPOCH, PASS, START = 0.13, 0.3, 0.05, 10.0
"""Seconds of a ResNet-50 on two cores: a step, an epoch and a pass with one image of 224x224, and the beginning."""

PASSES = 6


def first_words(values: dict[str, Any], epochs: int, *, only_plan: bool) -> str:
    """Return what is said before any library is loaded, which alone can take longer than a reader waits.

    Args:
        values: the options by name.
        epochs: of fine-tuning.
        only_plan: nothing is carried out.
    """
    text = "There is no --data: "
    if epochs and not only_plan:
        text += (
            "whatever needs images works on exemplars that are synthesized from the checkpoint, and no figure will be "
            "accuracy."
        )
    else:
        text += "if images are needed, they are synthesized from the checkpoint, and no figure will be accuracy."
    seconds = _resnet50_seconds(values, 0 if only_plan else epochs)
    rough = f"{round(seconds / 60)} minutes" if seconds >= 90 else f"{round(seconds, -1):.0f} seconds"
    return (
        f"{text} A ResNet-50 takes about {rough} so on two free cores, a small network seconds; an estimate for this "
        "one follows."
    )


def _resnet50_seconds(values: dict[str, Any], epochs: int) -> float:
    count, steps = values["exemplars"], values["exemplar_steps"] or USUAL_STEPS
    size = _size(values["exemplar_size"]) or (numbers(values["input_size"], "input-size", int) or (224, 224))[-2:]
    area = size[0] * size[-1] / 224**2
    # What a step costs on average, in steps at full size: most of them are made at smaller sizes; see plan_stages.
    share = 0.14 if min(size) >= 192 else 0.27 if min(size) >= 96 else 1.0
    return START + count * area * (steps * share * STEP + epochs * EPOCH + PASSES * PASS)


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
