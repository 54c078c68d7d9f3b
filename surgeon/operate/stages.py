"""The figures of every stage: accuracy on validation images, and how far the answers drifted from the original's."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import DataError
from surgeon.operate.inputs import Batches
from surgeon.operate.record import Stage, StageName
from surgeon.progress import Track
from surgeon.tuning import Metrics, compare_logits, evaluate, logits

Figures = tuple[float | None, float | None, float | None]
"""Top-1, top-5 and loss; None where the task has no such thing."""

DRIFT_IMAGES = 256
"""Calibration images on which the logits are compared with the original's."""


@dataclass
class Gauge:
    """Measures stages, always on the same images; its own reference is the network as it came."""

    model: nn.Module
    val: DataLoader[Any] | None
    calibration: Batches | None
    accelerator: Accelerator
    track: Track
    _images: DataLoader[Any] | None = field(default=None, init=False)
    _reference: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.calibration is not None:
            self._images = _first_images(self.calibration)
            self._reference = logits(self.model, self._images, accelerator=self.accelerator)

    def stage(self, name: StageName, target: str | None, start: float, figures: Figures | None = None) -> Stage:
        """Return the figures of the network as it stands.

        Args:
            name: what has just happened.
            target: to what.
            start: `time.perf_counter()` when it began.
            figures: those of the validation images, where they were measured already.
        """
        drift, agreement = self._compared(self.model)
        if figures is None and self.val is not None:
            scores = evaluate(self.model, self.val, accelerator=self.accelerator, track=self.track)
            figures = scores.top1, scores.top5, scores.loss
        top1, top5, loss = figures or (None, None, None)
        return Stage(name, top1, top5, loss, drift, agreement, time.perf_counter() - start, target)

    def agreement(self, model: nn.Module) -> Metrics:
        """Return a network's agreement with the original and its drift from it, for where there is no accuracy.

        Args:
            model: the network as it stands, or an average of its weights.

        Raises:
            DataError: there are no calibration images.
        """
        drift, agreement = self._compared(model)
        if drift is None or agreement is None:
            raise DataError("There is no image to compare the answers on.", "Give calibration images.")
        return Metrics({"agreement": agreement, "drift": drift}, best_by="agreement")

    def _compared(self, model: nn.Module) -> tuple[float, float] | tuple[None, None]:
        """Return drift and agreement."""
        if self._images is None or self._reference is None:
            return None, None
        return compare_logits(self._reference, logits(model, self._images, accelerator=self.accelerator))


def _first_images(batches: Batches) -> DataLoader[Any]:
    """Return the first images as a loader of their own."""
    images, labels, count = [], [], 0
    for batch, target in batches:
        images.append(batch)
        labels.append(target)
        count += len(batch)
        if count >= DRIFT_IMAGES:
            break
    if not images:
        raise DataError("There is no calibration image.", "Give a data set with images.")
    data = TensorDataset(torch.cat(images)[:DRIFT_IMAGES], torch.cat(labels)[:DRIFT_IMAGES])
    return DataLoader(data, batch_size=len(images[0]))
