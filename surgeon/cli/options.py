"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from surgeon.data import ImageConfig, ImageData

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

CHECKPOINT = click.Path(path_type=Path)


def combined(*decorators: Decorator) -> Decorator:
    """Return one decorator that applies several, in the order in which their options shall appear."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


arch_option = click.option(
    "--arch", metavar="ARCH", help="A timm name, torchvision:NAME, or file.py:function. Found by itself where possible."
)
weights_option = click.option(
    "--weights",
    metavar="KEY",
    help="Which weights to take where the file holds several, e.g. model_ema or model; the averaged ones without it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout; all else goes to stderr.")
layers_option = click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Module names or globs, e.g. layer4 or 'stages.3.*.conv2'.",
)

save_every_option = click.option(
    "--save-every",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Keep the run's state every so many updates too, not only every epoch.",
)
output_options = combined(
    click.option("-o", "--output", type=CHECKPOINT, help="The result; <stem>-<what was done>.safetensors by default."),
    click.option(
        "--model-card", type=CHECKPOINT, metavar="FILE", help="Write a model card too, such as README.md for the Hub."
    ),
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
    save_every_option,
    click.option("--restart", is_flag=True, help="Begin anew where an interrupted run could be continued."),
    click.option(
        "--resume-changed",
        is_flag=True,
        help="Continue a run with another learning rate, schedule, clipping, precision or number of processes.",
    ),
)
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")


def data_options(hold_out: float) -> Decorator:
    """Return the options that name images and say how they are read.

    Args:
        hold_out: default share of the images that validates where the data has no split of its own.
    """
    return combined(
        click.option(
            "--data",
            metavar="DATA",
            help="A folder of images, a timm name (torch/…, hfds/…, wds/…), digits, exemplars:FILE, or random (noise, "
            "for tests only); a folder that is named so is ./random.",
        ),
        click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a batch."),
        click.option(
            "--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes that read images."
        ),
        click.option("--limit", type=click.IntRange(1), help="Use at most so many training and validation images."),
        click.option(
            "--hold-out",
            type=click.FloatRange(0, 1, max_open=True),
            default=hold_out,
            show_default=True,
            help="Share of the images that validates where the data has no split of its own.",
        ),
        click.option("--data-root", type=CHECKPOINT, help="Folder of a torch/… data set, or cache of a hfds/… one."),
        click.option("--download", is_flag=True, help="Let torchvision fetch a torch/… data set that is missing."),
        click.option(
            "--skip-bad-images",
            is_flag=True,
            help="Leave out images that cannot be read, up to a tenth; another of the class stands in for each.",
        ),
        click.option("--input-size", metavar="C,H,W", help="Override the network's input size."),
        click.option("--mean", metavar="R,G,B", help="Override the normalization's mean, for pixels in [0, 1]."),
        click.option("--std", metavar="R,G,B", help="Override the normalization's standard deviation."),
        click.option("--interpolation", help="Override how images are resized: bilinear, bicubic, …"),
        click.option("--crop-pct", type=float, help="Override the share of the resized image that evaluation keeps."),
    )


def numbers(text: str | None, name: str, kind: type) -> tuple[Any, ...] | None:
    """Return comma-separated numbers as a tuple; None stays None.

    Raises:
        OptionError: the text holds something else.
    """
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise OptionError(f"The option --{name} is '{text}'.", "Give numbers with commas between them.") from error


def resolve_images(model: nn.Module, values: dict[str, Any]) -> ImageConfig:
    """Return the network's image configuration with the overrides of the command line."""
    from surgeon.data import image_config

    return image_config(
        model,
        input_size=numbers(values["input_size"], "input-size", int),
        mean=numbers(values["mean"], "mean", float),
        std=numbers(values["std"], "std", float),
        interpolation=values["interpolation"],
        crop_pct=values["crop_pct"],
    )


def example_images(model: nn.Module, input_size: str | None) -> torch.Tensor:
    """Return two empty images of the size that the network takes, or of the one on the command line."""
    import torch

    from surgeon.data import image_size

    return torch.zeros(2, *image_size(model, numbers(input_size, "input-size", int)))


def open_images(model: nn.Module, values: dict[str, Any], seed: int) -> ImageData:
    """Open the data set that the command line names, in the form that the network wants."""
    from surgeon.data import open_data
    from surgeon.operate.inputs import num_outputs

    return open_data(
        values["data"],
        resolve_images(model, values),
        limit=values["limit"],
        seed=seed,
        hold_out=values["hold_out"],
        root=values["data_root"],
        download=values["download"],
        auto_augment=values.get("aa"),
        erasing=values.get("reprob", 0.0),
        classes=num_outputs(model),
        skip_bad_images=values["skip_bad_images"],
    )


def key_values(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return `name=value` texts as a dictionary; dashes in names count as underscores.

    Raises:
        OptionError: a text has no equals sign.
    """
    result = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise OptionError(f"'--set {pair}' is not of the form name=value.", "Write, for example, --set ratio=0.5.")
        result[name.strip().replace("-", "_")] = value.strip()
    return result
