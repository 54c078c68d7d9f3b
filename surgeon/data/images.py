"""Images with labels, read one at a time and made into tensors."""

import hashlib
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from surgeon.data.transforms import Transform
from surgeon.data.unreadable import Unreadable, UnreadableImageError, UnreadableImagesError, stand_ins

# What decoders raise on broken files; Pillow does not wrap them.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AssertionError, OverflowError, MemoryError,
    struct.error, zlib.error, PIL.Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class LabelledImages:
    """A set of images, of which none is read yet.

    Args:
        classes: their names, by label.
        labels: [N] int64, of every image.
        read: the image of an index, possibly not decoded yet.
        where: what to call the image of an index: its path, where it has one.
        paths: of every image; () where they have none, or none that is known without reading it.
    """

    classes: tuple[str, ...]
    labels: Tensor
    read: Callable[[int], Image]
    where: Callable[[int], str]
    paths: Sequence[str] = ()

    def shown(self, index: int) -> str:
        """Return what to call an image in a message, which has to stay one line."""
        return ascii(self.where(index))[1:-1]


class ImageTensors(Dataset[tuple[Tensor, int]]):
    """Some images of a set, as tensors.

    Args:
        images: the set.
        indices: [N] int64, which of them.
        channels: 3 for colour, 1 for gray.
        transform: from an image to a tensor.
        seed: of the transform's random choices, together with epoch and index; None for a transform that makes none.
        unreadable: takes down the images of the set that cannot be read, in whose places others of their class then
            stand, see `stand_ins`; without it such an image is an error.

    Attributes:
        keeps_to_itself: reading an item draws from no generator but its own, so that items may be left out.
    """

    keeps_to_itself = True

    def __init__(
        self,
        images: LabelledImages,
        indices: Tensor,
        channels: int,
        transform: Transform,
        seed: int | None = None,
        unreadable: Unreadable | None = None,
    ) -> None:
        self.images = images
        self.indices = indices
        self.mode = "L" if channels == 1 else "RGB"
        self.transform = transform
        self.seed = seed
        self.unreadable = unreadable

    @property
    def labels(self) -> Tensor:
        """[N] int64, without reading an image."""
        return self.images.labels[self.indices]

    @property
    def names_sha256(self) -> str:
        """What tells these images from others without reading one: the SHA-256 of their labels and paths in order."""
        state = hashlib.sha256(repr(self.images.classes).encode())
        state.update(self.indices.numpy().tobytes())
        state.update(self.labels.numpy().tobytes())
        for index in self.indices.tolist() if self.images.paths else ():
            state.update(b"\0" + self.images.paths[index].encode("utf-8", "surrogatepass"))
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int]:
        """One image.

        Args:
            item: its place, or the epoch and its place.

        Raises:
            DataError: it cannot be read.
        """
        epoch, place = item if isinstance(item, tuple) else (0, item)
        index = int(self.indices[place])
        image = self.decoded(place)
        if self.seed is None:
            return self.transform(image), int(self.images.labels[index])
        with _seeded(self.seed, epoch, index):
            return self.transform(image), int(self.images.labels[index])

    def decoded(self, place: int) -> Image:
        """One image before its transform, or what stands in its place.

        Raises:
            DataError: it cannot be read.
        """
        if self.unreadable is None:
            return self._read(int(self.indices[place]))
        for one in self._readable(place, self.unreadable):
            index = int(self.indices[one])
            try:
                return self._read(index)
            except UnreadableImageError:
                self.unreadable.add(index)
        label = int(self.images.labels[self.indices[place]])
        raise UnreadableImagesError(f"No image of the class {ascii(self.images.classes[label])[1:-1]} can be read.")

    def _readable(self, place: int, unreadable: Unreadable) -> Iterator[int]:
        """Yield the place of an image, and then those of what may stand in for it, as far as nothing speaks against."""
        if int(self.indices[place]) not in unreadable:
            yield place
        # Only now, since every image of the set is looked at for it.
        unreadable.check(self.indices)
        yield from (one for one in stand_ins(place, self.labels) if int(self.indices[one]) not in unreadable)

    def _read(self, index: int) -> Image:
        try:
            return self.images.read(index).convert(self.mode)
        except _BROKEN as error:
            # Pillow would name what it was given, which is an open file.
            unknown = isinstance(error, PIL.UnidentifiedImageError)
            reason = "it is no image" if unknown else str(error).partition("\n")[0] or type(error).__name__
            raise UnreadableImageError(f"The image {self.images.shown(index)} cannot be read ({reason}).") from None


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Random choices by these numbers alone, for transforms that draw from the global generators."""
    seed = int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0])
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        # timm's augmentation policies draw from numpy, which takes seeds of 32 bits.
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
