"""The embedded data: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from surgeon.data.folder import Splits
from surgeon.data.images import LabelledImages

NAME = "digits"
VALIDATION_IMAGES = 360
LARGEST_VALUE = 16


@dataclass(frozen=True)
class _Pixels:
    pixels: NDArray[np.uint8]

    def read(self, index: int) -> Image:
        return PIL.Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        return f"{NAME}[{index}]"


def open_digits() -> Splits:
    """1,437 training and 360 validation images, always the same, with the classes in proportion.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    # scikit-learn takes a second to import, which other data need not wait for.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.round(digits.images * (255 / LARGEST_VALUE)).astype(np.uint8)
    parts = train_test_split(
        np.arange(len(pixels)), test_size=VALIDATION_IMAGES, stratify=digits.target, random_state=0
    )
    classes = tuple(str(name) for name in digits.target_names)
    train, val = (_images(pixels[part], digits.target[part], classes) for part in map(np.sort, parts))
    return Splits(train, val)


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]) -> LabelledImages:
    stored = _Pixels(pixels)
    return LabelledImages(classes, torch.from_numpy(labels).long(), stored.read, stored.where)
