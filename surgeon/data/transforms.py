"""From an image to a normalized tensor: as it is for evaluation, varied for training."""

from collections.abc import Callable

from PIL.Image import Image
from timm.data import create_transform
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision import transforms

from surgeon.data.config import ImageConfig

Transform = Callable[[Image], Tensor]

# Up to this side a network sees pictures, not photographs: random crops of a tenth of them would show nothing.
SMALL_SIDE = 64
PADDED_SHARE = 8


class _Evaluation:
    """timm's evaluation transform, but nothing of an image is lost that has the network's size already."""

    def __init__(self, config: ImageConfig) -> None:
        self.size = (config.input_size[2], config.input_size[1])
        self.whole = _timm_evaluation(config, crop_pct=1.0)
        self.cropped = _timm_evaluation(config, crop_pct=config.crop_pct)

    def __call__(self, image: Image) -> Tensor:
        return self.whole(image) if image.size == self.size else self.cropped(image)


def evaluation_transform(config: ImageConfig) -> Transform:
    """Resize, crop the middle and normalize; normalize only, where the image has the network's size."""
    return _Evaluation(config)


def training_transform(config: ImageConfig, *, small: bool, flip: bool) -> transforms.Compose:
    """Vary an image and normalize it.

    Args:
        config: the network's input.
        small: the images are small pictures, whatever the network's size.
        flip: a mirrored image shows the same class.

    Returns:
        For small pictures and networks up to 64x64, a crop at random after padding by an eighth, and a flip (He et
        al., Deep Residual Learning, 2016, section 4.2); timm's training transform otherwise.
    """
    if small or max(config.input_size[1:]) <= SMALL_SIDE:
        return _shifted(config, flip)
    return create_transform(
        config.input_size,
        is_training=True,
        hflip=0.5 if flip else 0.0,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )


def _shifted(config: ImageConfig, flip: bool) -> transforms.Compose:
    size = config.input_size[1:]
    steps = [
        transforms.Resize(min(size), interpolation=str_to_interp_mode(config.interpolation)),
        transforms.CenterCrop(size),
        transforms.RandomCrop(size, padding=min(size) // PADDED_SHARE),
    ]
    if flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, _timm_evaluation(config, crop_pct=1.0)])


def _timm_evaluation(config: ImageConfig, crop_pct: float) -> transforms.Compose:
    return create_transform(
        config.input_size,
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=crop_pct,
        crop_mode=config.crop_mode,
    )
