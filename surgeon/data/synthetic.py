"""Data sets that nobody photographed: exemplars and noise."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from surgeon.data.config import ImageConfig
from surgeon.data.exemplars import Exemplars, read_exemplars
from surgeon.data.image_data import EXEMPLARS, RANDOM, ImageData
from surgeon.data.images import ImageTensors, LabelledImages
from surgeon.data.pictures import picture
from surgeon.data.sampling import spread_labels, stratified_subset
from surgeon.data.transforms import Transform, evaluation_transform
from surgeon.errors import DataError

EXEMPLARS_PREFIX = "exemplars:"
NOISE_IMAGES = 32
LEVELS = 256

ENOUGH_RECOGNIZED = 0.5
"""Share of the exemplars that their network takes for their class, below which they are no good."""

NOTES = {
    EXEMPLARS: "There were no real images: agreement and drift are measured on images that were synthesized from a "
    "network, and are not accuracy.",
    RANDOM: "The images are random noise, for speed and tests only: agreement and drift on them are not accuracy, and "
    "statistics that are measured on them harm the network.",
}
"""What a reader of any figure should know, by the kind of the images."""


@dataclass(frozen=True)
class _Pixels:
    name: str
    pixels: Tensor

    def read(self, index: int) -> Image:
        return picture(self.pixels[index])

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"


def is_synthetic(spec: str | None) -> bool:
    """Tell whether `--data` names images that nobody took; none at all are synthesized."""
    return spec is None or spec.startswith(EXEMPLARS_PREFIX) or spec == RANDOM


def open_synthetic(
    spec: str,
    config: ImageConfig,
    vary: Callable[[ImageConfig], Transform],
    *,
    limit: int | None,
    seed: int,
    classes: int | None,
) -> ImageData:
    """Open a file of exemplars, or make noise.

    Args:
        spec: `exemplars:FILE` or `random`.
        config: the network's input; exemplars keep their own size, which the network has to take.
        vary: gives what makes a training image's tensor, for the input that it is to be.
        limit: at most so many images, with the classes in proportion; of noise, just so many instead of 32.
        seed: of the subset, of the random variation and of the noise.
        classes: of the network; only noise has to be told.

    Raises:
        DataError: the file is missing, damaged or of another kind, or noise is not told the classes.
    """
    if spec.startswith(EXEMPLARS_PREFIX):
        path = Path(spec.removeprefix(EXEMPLARS_PREFIX))
        exemplars = read_exemplars(path)
        own, notes = at_own_size(config, (exemplars.images.shape[2], exemplars.images.shape[3]))
        data = exemplar_data(exemplars, own, vary(own), name=spec, file=path, limit=limit, seed=seed)
        return dataclasses.replace(data, notes=(*data.notes, *notes))
    if classes is None:
        raise DataError("Random images need the number of classes.", "Give `classes`.")
    pixels, labels = _noise(config, limit or NOISE_IMAGES, classes, seed)
    return _data(spec, pixels, labels, classes, config, vary(config), seed, {"kind": RANDOM, "count": len(labels)})


def at_own_size(config: ImageConfig, size: tuple[int, int]) -> tuple[ImageConfig, tuple[str, ...]]:
    """Return the input for images that are used at the size that they were made in, and a note where that is another.

    Args:
        config: the network's input.
        size: height and width of the images.
    """
    channels, *usual = config.input_size
    if size == tuple(usual):
        return config, ()
    own, other = (f"{height}x{width}" for height, width in (size, usual))
    note = f"The exemplars are measured and trained on at their own size, {own}; the network's is {other}."
    return dataclasses.replace(config, input_size=(channels, *size)), (note,)


def exemplar_data(
    exemplars: Exemplars,
    config: ImageConfig,
    varied: Transform,
    *,
    name: str,
    file: Path | None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageData:
    """Return exemplars as a data set, all of them for training and calibration alike.

    Args:
        exemplars: the images.
        config: the network's input; images of another size are resized.
        varied: makes a training image's tensor.
        name: what to call them.
        file: where they are kept, or None.
        limit: at most so many, with the classes in proportion.
        seed: of the subset and of the random variation.
    """
    if limit is not None:
        kept = stratified_subset(exemplars.labels, limit, seed)
        exemplars = dataclasses.replace(exemplars, images=exemplars.images[kept], labels=exemplars.labels[kept])
    source = {"kind": EXEMPLARS, "file": None if file is None else str(file), **exemplars.described()}
    data = _data(name, exemplars.images, exemplars.labels, exemplars.classes, config, varied, seed, source)
    return dataclasses.replace(data, notes=(*data.notes, *_recognition_notes(exemplars.recognized)))


def _recognition_notes(share: float | None) -> tuple[str, ...]:
    if share is None:
        return ()
    found = f"The checkpoint takes {share:.0%} of the exemplars for the class that they were made for."
    if share >= ENOUGH_RECOGNIZED:
        return (found,)
    return (
        f"{found} That is few: the synthesis did not work, and what is measured or learnt on them is worth "
        "little; try more --exemplar-steps, or real images.",
    )


def _data(
    name: str,
    pixels: Tensor,
    labels: Tensor,
    classes: int,
    config: ImageConfig,
    varied: Transform,
    seed: int,
    source: Mapping[str, Any],
) -> ImageData:
    stored = _Pixels(name, pixels)
    images = LabelledImages(tuple(map(str, range(classes))), labels, stored.read, stored.where)
    everything, channels = torch.arange(len(labels)), config.input_size[0]
    train = ImageTensors(images, everything, channels, varied, seed)
    unchanged = ImageTensors(images, everything, channels, evaluation_transform(config))
    return ImageData(name, images.classes, train, unchanged, unchanged, (NOTES[source["kind"]],), source=source)


def _noise(config: ImageConfig, count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pixels of all levels alike, uint8 [N, C, H, W], and labels that mean nothing."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(LEVELS, (count, *config.input_size), generator=generator, dtype=torch.uint8)
    return pixels, spread_labels(count, classes)
