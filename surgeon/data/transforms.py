"""From an image to a normalized tensor: as it is for evaluation, varied for training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from timm.data import create_transform
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision import transforms

from surgeon.data.config import ImageConfig
from surgeon.errors import OptionError

Transform = Callable[[Image], Tensor]

# Up to this side a network sees pictures, not photographs: random crops of a tenth of them would show nothing.
SMALL_SIDE = 64
PADDED_SHARE = 8


@dataclass(frozen=True)
class Pixels:
    """What a transform does, in parts of which a device can do all but the first with whole batches of pixels.

    Args:
        fit: makes an image the network's size.
        size: height and width of that.
        padding: black pixels around the image, within which a crop of its size is taken at random.
        flip: how likely the image is mirrored, in [0, 1].
        mean: of every channel, for pixels in [0, 1]; it is subtracted.
        std: of every channel; what is left is divided by it.
    """

    fit: Callable[[Image], Image]
    size: tuple[int, int]
    padding: int
    flip: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Evaluation:
    """timm's evaluation transform, but nothing of an image is lost that has the network's size already."""

    def __init__(self, config: ImageConfig) -> None:
        self.size = (config.input_size[2], config.input_size[1])
        self.whole = _timm_evaluation(config, crop_pct=1.0)
        self.cropped = _timm_evaluation(config, crop_pct=config.crop_pct)

        self.pixels = Pixels(self.fit, config.input_size[1:], 0, 0.0, config.mean, config.std)

    def __call__(self, image: Image) -> Tensor:
        return self._chosen(image)(image)

    def fit(self, image: Image) -> Image:
        """The image at the network's size, not yet a tensor."""
        # The last two steps make a tensor and normalize it.
        return transforms.Compose(self._chosen(image).transforms[:-2])(image)

    def _chosen(self, image: Image) -> transforms.Compose:
        return self.whole if image.size == self.size else self.cropped


class _Shifted(transforms.Compose):
    """A crop at random after padding and a flip, and nothing else, of which a device can do all but the resizing."""

    def __init__(self, steps: list[Any], config: ImageConfig, flip: bool) -> None:
        super().__init__(steps)
        size = config.input_size[1:]
        fit = transforms.Compose(_fitting(config))
        self.pixels = Pixels(fit, size, min(size) // PADDED_SHARE, 0.5 if flip else 0.0, config.mean, config.std)


def evaluation_transform(config: ImageConfig) -> Transform:
    """Resize, crop the middle and normalize; normalize only, where the image has the network's size."""
    return _Evaluation(config)


def training_transform(
    config: ImageConfig, *, small: bool, flip: bool, auto_augment: str | None = None, erasing: float = 0.0
) -> transforms.Compose:
    """Vary an image and normalize it.

    Args:
        config: the network's input.
        small: the images are small pictures, whatever the network's size.
        flip: a mirrored image shows the same class.
        auto_augment: a policy in timm's words, such as rand-m9-mstd0.5, augmix-m3-w3, 3a or original; or None.
        erasing: how likely a rectangle of the image is replaced by noise (Zhong et al., Random Erasing, 2020), in
            [0, 1].

    Returns:
        For small pictures and networks up to 64x64, a crop at random after padding by an eighth, and a flip (He et
        al., Deep Residual Learning, 2016, section 4.2); timm's training transform otherwise.

    Raises:
        OptionError: timm does not know the policy, or the share is out of range.
    """
    if not 0 <= erasing <= 1:
        raise OptionError(f"The probability of random erasing is {erasing}.", "Give a value in [0, 1].")
    small = is_small(config, small)
    # timm's usual change of colours is for photographs.
    colors: dict[str, Any] = {"color_jitter": None} if small else {}
    try:
        cropped, varied, normalized = create_transform(
            config.input_size,
            is_training=True,
            hflip=0.5 if flip else 0.0,
            auto_augment=auto_augment,
            re_prob=erasing,
            re_mode="pixel",
            interpolation=config.interpolation,
            mean=config.mean,
            std=config.std,
            separate=True,
            **colors,
        )
    except (AssertionError, ValueError, LookupError) as error:
        raise OptionError(
            f"timm knows no augmentation policy {auto_augment!r}{f': {error}' if str(error) else ''}.",
            "Give one such as rand-m9-mstd0.5, augmix-m3-w3, 3a or original.",
        ) from error
    steps = [*(_shifts(config, flip) if small else cropped.transforms), *varied.transforms, *normalized.transforms]
    return _Shifted(steps, config, flip) if small and not auto_augment and not erasing else transforms.Compose(steps)


def is_small(config: ImageConfig, small: bool) -> bool:
    """Whether images are varied as small pictures are: because they are, or because the network sees no more."""
    return small or max(config.input_size[1:]) <= SMALL_SIDE


def _shifts(config: ImageConfig, flip: bool) -> list[Callable[[Image], Image]]:
    size = config.input_size[1:]
    steps = [*_fitting(config), transforms.RandomCrop(size, padding=min(size) // PADDED_SHARE)]
    return [*steps, transforms.RandomHorizontalFlip()] if flip else steps


def _fitting(config: ImageConfig) -> list[Callable[[Image], Image]]:
    size = config.input_size[1:]
    return [
        transforms.Resize(min(size), interpolation=str_to_interp_mode(config.interpolation)),
        transforms.CenterCrop(size),
    ]


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
