"""What a network wants its images to be."""

import math
from dataclasses import dataclass
from typing import Any

import timm.data
import torchvision
from torch import nn

from surgeon.errors import DataError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
LARGEST_CROP = 2
GRAY, COLOR = 1, 3


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes a network's input.

    Args:
        input_size: channels (1 or 3), height and width.
        mean: of every channel, for pixels in [0, 1].
        std: standard deviation of every channel, for pixels in [0, 1]; positive.
        interpolation: nearest, bilinear, bicubic, box, hamming or lanczos.
        crop_pct: share of the resized image's side that the evaluation crop keeps, in (0, 2]; above 1 it is padded.
        crop_mode: center, squash (the whole image, out of proportion) or border (the whole image, padded), as in timm.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str = "center"


def image_config(
    model: nn.Module,
    *,
    input_size: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
) -> ImageConfig:
    """The images that a network was trained on, as far as it says so, and else timm's defaults.

    Args:
        model: its attribute `pretrained_cfg` counts, as in timm; for a torchvision network that `surgeon.load` built,
            the preprocessing of its published weights.
        input_size: overrides what the network says; so do the others.

    Raises:
        DataError: a value is out of range.
    """
    known = timm.data.resolve_data_config({}, pretrained_cfg=_published(model), model=model)
    size = tuple(input_size or (_channels(model, known["input_size"][0]), *known["input_size"][1:]))
    config = ImageConfig(
        input_size=size,
        mean=_per_channel(mean or known["mean"], size[0]),
        std=_per_channel(std or known["std"], size[0]),
        interpolation=interpolation or known["interpolation"],
        crop_pct=float(known["crop_pct"] if crop_pct is None else crop_pct),
        crop_mode=known["crop_mode"],
    )
    _check(config)
    return config


def image_size(model: nn.Module, override: tuple[int, ...] | None = None) -> tuple[int, int, int]:
    """Return channels, height and width of a network's images, of any number of channels.

    Args:
        model: see `image_config`.
        override: taken instead of what the network says.

    Raises:
        DataError: the override is not three positive numbers.
    """
    known = timm.data.resolve_data_config({}, pretrained_cfg=_published(model), model=model)["input_size"]
    size = override or (_channels(model, known[0]), *known[1:])
    if len(size) != 3 or min(size) < 1:
        raise DataError(
            f"The input size {','.join(map(str, size))} is not that of an image.",
            "Give channels, height and width, such as 3,224,224.",
        )
    return size[0], size[1], size[2]


def _channels(model: nn.Module, usual: int) -> int:
    """What the network was built with, else what its first convolution takes, where that may be an image."""
    arguments = getattr(getattr(model, "surgeon_architecture", None), "arguments", {})
    for name in ("in_chans", "in_channels"):
        if name in arguments:
            return int(arguments[name])
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (GRAY, COLOR) else usual


def _published(model: nn.Module) -> dict[str, Any]:
    """The preprocessing of torchvision's published weights of this network, in timm's names; {} for other networks."""
    architecture = getattr(model, "surgeon_architecture", None)
    if architecture is None or architecture.source != "torchvision":
        return {}
    # By its key, since not every type of the weights' enumeration declares the attribute DEFAULT.
    preset = torchvision.models.get_model_weights(architecture.name)["DEFAULT"].transforms()
    if not hasattr(preset, "crop_size"):
        return {}
    crop = preset.crop_size[0]
    return {
        "input_size": (len(preset.mean), crop, crop),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": preset.interpolation.value,
        "crop_pct": crop / preset.resize_size[0],
    }


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == 1:
        return tuple(values) * channels
    if channels == GRAY:
        return (math.fsum(values) / len(values),)
    return tuple(values)


def _check(config: ImageConfig) -> None:
    size = config.input_size
    channels = size[0]
    broken = {
        "input_size": len(size) != 3 or channels not in (GRAY, COLOR) or min(size) < 1,
        "mean": len(config.mean) != channels or not all(math.isfinite(value) for value in config.mean),
        "std": len(config.std) != channels or not all(0 < value < math.inf for value in config.std),
        "interpolation": config.interpolation not in INTERPOLATIONS,
        "crop_pct": not 0 < config.crop_pct <= LARGEST_CROP,
        "crop_mode": config.crop_mode not in CROP_MODES,
    }
    for name, is_broken in broken.items():
        if is_broken:
            raise DataError(
                f"The images' {name} {getattr(config, name)!r} is out of range.",
                "Give 1 or 3 channels, positive sizes, one mean and one positive std a channel, 0 < crop_pct <= 2, and "
                f"one of {', '.join(INTERPOLATIONS)}.",
            )
