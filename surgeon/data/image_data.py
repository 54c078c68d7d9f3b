"""A data set in the forms that an operation needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from surgeon.data.images import LabelledImages
from surgeon.data.unreadable import Unreadable

IMAGES, EXEMPLARS, RANDOM = "images", "exemplars", "random"
"""What `ImageData.source` calls images that somebody took, images made from a checkpoint, and noise."""


@dataclass(frozen=True)
class ImageData:
    """A data set in the three forms that an operation needs; each item is an image [C, H, W] and its label.

    Args:
        name: as the user gave it.
        classes: their names, by label; () where a stream does not tell.
        train: the training images, varied at random.
        calibration: the same images in the same order, as for evaluation.
        val: the validation images, as for evaluation.
        notes: what a reader of any results should know.
        training_notes: what a reader of the results of training should know beside them.
        source: for the record: its `kind`, and where the images come from.
        skipping: the sets that the images are of, each with those that were found unreadable and are left out; () where
            such an image is an error.
    """

    name: str
    classes: tuple[str, ...]
    train: Dataset[Any]
    calibration: Dataset[Any]
    val: Dataset[Any]
    notes: tuple[str, ...] = ()
    training_notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=lambda: {"kind": IMAGES})
    skipping: Sequence[tuple[LabelledImages, Unreadable]] = ()

    @property
    def real(self) -> bool:
        """Whether its labels are anybody's judgement, so that right answers are accuracy."""
        return self.source["kind"] == IMAGES
