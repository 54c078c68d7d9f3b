"""The network of two stages in float64, and its images: what rounding alone makes different stays very small."""

from typing import Any

import torch
from killed_runs import Varied
from two_stages import Two

from surgeon.data import ImageData


class Precise(Two):
    """Two stages with BatchNorm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.double()


class Exact(Varied):
    """Images that no process varies by random numbers of its own."""

    def __init__(self) -> None:
        super().__init__(varied=False)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = super().__getitem__(index)
        return image.double(), label


def images(model: Any) -> ImageData:
    return ImageData("three levels", ("a", "b", "c"), Exact(), Exact(), Exact())
