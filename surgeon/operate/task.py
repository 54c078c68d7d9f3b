"""What a network is trained for: classification, or a task that its user describes."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from surgeon.errors import DataError
from surgeon.measure.criteria import CRITERIA
from surgeon.methods.base import CLASS_MEANS, Method
from surgeon.operate.inputs import Batches
from surgeon.progress import Track
from surgeon.tuning import BatchLoss, Metric, Score, evaluate, mean_loss, score_by

InputsOf = Callable[[Any], Tensor]
"""`inputs(batch)` returns what the network is called with, float `[B, C, H, W]`."""

NO_LABEL = -1
"""The label of images that have none: no class, so that whatever reads it by mistake refuses it."""


@dataclass(frozen=True)
class Task:
    """What a network is trained for; without arguments, classification of images by labels.

    Attributes:
        loss: `loss(model, batch)` returns the mean loss of the batch's images; None is classification's.
        metric: see `Metric`; None is top-1, top-5 and loss in classification, and else the mean of `loss`.
        inputs: see `InputsOf`; None where batches are `(images, …)`.
    """

    loss: BatchLoss | None = None
    metric: Metric | None = None
    inputs: InputsOf | None = None

    @property
    def classifies(self) -> bool:
        """Whether the network answers with logits of classes, and batches are images and labels."""
        return self.loss is None

    @property
    def standard(self) -> bool:
        """Whether the figures are top-1, top-5 and loss."""
        return self.loss is None and self.metric is None

    def score(self, loader: DataLoader[Any], accelerator: Accelerator, track: Track) -> Score:
        """Return the function that measures the network on the batches of a loader."""
        if self.metric is not None:
            metric = self.metric
        elif self.loss is not None:
            metric = mean_loss(self.loss, accelerator)
        else:
            return lambda model: evaluate(model, loader, accelerator=accelerator, track=track)
        return score_by(metric, loader, accelerator=accelerator, track=track)

    def measured(self, batches: Any) -> Batches:
        """Return the batches that methods and recalibration read: images, and labels where there are any."""
        if self.inputs is None:
            return batches
        if isinstance(batches, DataLoader) and batches.batch_size is not None:
            # A loader of its own kind, which several processes can share out.
            loader = copy.copy(batches)
            loader.collate_fn = _Collate(batches.collate_fn, self.inputs)
            # Workers that persist still collate as before.
            loader._iterator = None
            return loader
        return _Unlabelled(batches, self.inputs)

    def check_measurable(self, method: Method, config: Any, *, labelled: bool) -> None:
        """Refuse a method that measures classes where there are none.

        Args:
            method: the method.
            config: its options.
            labelled: the batches to measure on were given for that, as images and labels.

        Raises:
            DataError: the method needs the label of every image.
        """
        wanted = method.measures(config)
        if self.classifies or (labelled and self.inputs is None) or wanted is None:
            return
        if wanted == CLASS_MEANS or CRITERIA[wanted].needs_labels:
            raise DataError(
                f"The method {method.name} measures {wanted} on images with one label each, and this task has none.",
                "Give such images as calibration=, or choose a method that reads no labels.",
            )


@dataclass(frozen=True)
class _Collate:
    """Makes batches of images without labels from those of another loader."""

    collate: Callable[[list[Any]], Any]
    inputs: InputsOf

    def __call__(self, items: list[Any]) -> tuple[Tensor, Tensor]:
        return _unlabelled(self.inputs(self.collate(items)))


@dataclass(frozen=True)
class _Unlabelled:
    """Batches of images without labels."""

    batches: Iterable[Any]
    inputs: InputsOf

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            yield _unlabelled(self.inputs(batch))


def _unlabelled(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, torch.full((len(images),), NO_LABEL)
