"""Images for the pictures that need some."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.progress import Track, no_progress
from surgeon.report.untrusted import printable


@dataclass(frozen=True)
class Images:
    """Images to ask the networks about.

    Attributes:
        name: of the data set.
        classes: their names, by label; () where they are not known.
        real: whether the labels are anybody's judgement.
        calibration: the training images as for evaluation, in batches.
        val: the validation images, in batches.
        accelerator: device and precision.
        track: is told of every batch.
    """

    name: str
    classes: tuple[str, ...]
    real: bool
    calibration: DataLoader[Any]
    val: DataLoader[Any]
    accelerator: Accelerator
    track: Track = no_progress

    def called(self, label: int) -> str:
        """Return the name of a class: the name of a folder, which may be anything."""
        return printable(self.classes[label]) if label < len(self.classes) else str(label)


OpenImages = Callable[[nn.Module, int], Images]
"""Opens the images for a network, with the seed of its run."""
