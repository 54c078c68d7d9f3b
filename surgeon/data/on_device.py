"""Small data sets that lie decoded on the device, where whole batches of them are varied at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from surgeon.data.images import ImageTensors
from surgeon.data.transforms import Pixels

BUDGET = 2**30
"""Bytes that one set of images may take on the device."""

DECODED_AT_ONCE = 256


class DeviceImages(Dataset[Any]):
    """The images of a set as they are before they are varied and normalized, on the device.

    A DataLoader that fetches whole batches gets them varied and normalized. How an image is varied depends on the seed,
    the epoch and the image alone, in the same way as by the set's own transform, but not to the same numbers.

    Args:
        images: what `why_not` finds nothing against; every image is decoded once, here.
        device: where they are kept.
        workers: processes that decode them.

    Attributes:
        keeps_to_itself: as for `ImageTensors`.
    """

    keeps_to_itself = True

    def __init__(self, images: ImageTensors, device: torch.device, workers: int = 0) -> None:
        pixels = pixels_of(images)
        assert pixels is not None
        self.device = device
        self.seed = images.seed
        self.labels = images.labels.to(device)
        self._pixels = pixels
        self._drawn: tuple[int, Tensor, Tensor] | None = None
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (pixels.mean, pixels.std)
        )
        height, width = pixels.size
        border = 2 * pixels.padding
        channels = len(pixels.mean)
        # The border stays black, as a crop beyond the image's edge finds it.
        self._stored = torch.zeros(
            len(images), channels, height + border, width + border, dtype=torch.uint8, device=device
        )
        place = 0
        for batch in DataLoader(_Fitted(images, pixels), DECODED_AT_ONCE, num_workers=workers):
            rows = self._stored[place : place + len(batch)]
            rows[:, :, pixels.padding : pixels.padding + height, pixels.padding : pixels.padding + width] = batch
            place += len(batch)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """One image [C, H, W] and its label, by its place, or by the epoch and its place."""
        images, labels = self.__getitems__([item])
        return images[0], labels[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return a batch: images float32 [B, C, H, W] and labels int64 [B], on the device.

        Args:
            items: places, or pairs of the epoch, the same in all of them, and a place.
        """
        pairs = [item if isinstance(item, tuple) else (0, item) for item in items]
        places = torch.tensor([place for _, place in pairs], device=self.device)
        offsets, mirrored = self._choices(pairs[0][0])
        height, width = (torch.arange(length, device=self.device) for length in self._pixels.size)
        rows = offsets[places, 0, None] + height
        columns = offsets[places, 1, None] + torch.where(mirrored[places, None], width.flip(0), width)
        channels = torch.arange(self._stored.shape[1], device=self.device)
        cut = self._stored[
            places[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]
        return cut.float().div_(255).sub_(self._mean).div_(self._std), self.labels[places]

    def _choices(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Every image's offset [N, 2] and whether it is mirrored [N], in this epoch."""
        if self._drawn is None or self._drawn[0] != epoch:
            count, reach = len(self), 2 * self._pixels.padding + 1
            # On the CPU, whose numbers do not depend on the kind of the device.
            words = np.random.SeedSequence([self.seed or 0, epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0]))
            offsets = torch.randint(reach, (count, 2), generator=generator)
            mirrored = torch.rand(count, generator=generator) < self._pixels.flip
            self._drawn = epoch, offsets.to(self.device), mirrored.to(self.device)
        return self._drawn[1:]


class _Fitted(Dataset[Tensor]):
    """A set's images at the network's size, uint8 [C, H, W]."""

    def __init__(self, images: ImageTensors, pixels: Pixels) -> None:
        self._images = images
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> Tensor:
        return pil_to_tensor(self._pixels.fit(self._images.decoded(place)))


def pixels_of(images: Dataset[Any]) -> Pixels | None:
    """Return how a set's images become tensors, where a device can do it with whole batches."""
    return getattr(images.transform, "pixels", None) if isinstance(images, ImageTensors) else None


def why_not(images: Dataset[Any], budget: int = BUDGET) -> str | None:
    """Return why a set cannot lie on the device, as a part of a sentence, or None where it can.

    Args:
        images: of `open_data`, or any other.
        budget: bytes that it may take.
    """
    if not isinstance(images, ImageTensors):
        return "it is read as a stream"
    pixels = pixels_of(images)
    if pixels is None:
        return "its images are varied in a way that the device does not know"
    height, width = (length + 2 * pixels.padding for length in pixels.size)
    size = len(images) * len(pixels.mean) * height * width
    return f"it would take {size / 2**20:.0f} MiB, more than {budget / 2**20:.0f} MiB" if size > budget else None
