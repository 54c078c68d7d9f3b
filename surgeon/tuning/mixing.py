"""Training images that are mixed with each other: mixup and cutmix."""

import torch
from timm.data import Mixup
from torch import Tensor

from surgeon.errors import OptionError
from surgeon.tuning.config import TuningConfig


class Mixing:
    """Mixes every image of a batch with the one opposite, by timm's Mixup.

    One ratio is drawn a batch, from Beta(α, α); with both kinds, each batch is of either kind with one chance in two.
    Of an odd number of images the last stays as it is. The random numbers are numpy's global ones.

    Args:
        mixup: α of mixup (Zhang et al., mixup, 2018), at least 0; 0 for none.
        cutmix: α of cutmix (Yun et al., CutMix, 2019), at least 0; 0 for none.
    """

    def __init__(self, mixup: float, cutmix: float) -> None:
        self._mixup = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch, which itself stays as it is.

        Args:
            images: float [B, C, H, W].

        Returns:
            The mixed images, and which share of each image is in them: float32 [B, B], rows of mixed images that sum
            to 1.
        """
        count = len(images)
        pairs = count - count % 2
        shares = torch.eye(count, device=images.device)
        if pairs:
            # timm mixes labels as it mixes images: where every image is a class of its own, they are the shares.
            self._mixup.num_classes = pairs
            mixed, shares[:pairs, :pairs] = self._mixup(
                images[:pairs].clone(), torch.arange(pairs, device=images.device)
            )
            images = torch.cat([mixed, images[pairs:]]) if pairs < count else mixed
        return images, shares


def check_mixable(config: TuningConfig, batch_size: int | None) -> None:
    """Refuse to mix the images of batches that have only one.

    Raises:
        OptionError: mixup or cutmix is asked for, and the batch size is 1.
    """
    if config.mixes and batch_size == 1:
        raise OptionError(
            "Mixup and cutmix mix the images of a batch, and the batch size is 1.",
            "Give a larger batch size, or leave them out.",
        )
