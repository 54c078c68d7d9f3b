"""The images that a network is made for, by its configuration and its first convolution."""

from collections.abc import Mapping

from torch import nn

GRAY, COLOR = 1, 3
DEFAULT_SHAPE = (COLOR, 224, 224)


def image_shape(model: nn.Module) -> tuple[int, ...]:
    """Return the channels, height and width of a network's images: those that timm configures, or 3 × 224 × 224."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = config.get("input_size", DEFAULT_SHAPE) if isinstance(config, Mapping) else DEFAULT_SHAPE
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels in (GRAY, COLOR):
        # timm's configuration does not follow `in_chans`.
        return (first.in_channels, *size[1:])
    return tuple(size)
