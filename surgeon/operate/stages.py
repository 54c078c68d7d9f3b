"""The figures of every stage: accuracy on validation images, and how far the answers drifted from the original's."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import DataError
from surgeon.operate.inputs import Batches
from surgeon.operate.record import Stage, StageName
from surgeon.tuning import Metrics, Score, Scores, compare_logits, logits


class Figures(NamedTuple):
    """Top-1, top-5 and loss, None where the task has no such thing, and the figures that it has instead by name."""

    top1: float | None = None
    top5: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = {}


DRIFT_IMAGES = 256
"""Calibration images on which the logits are compared with the original's."""


@dataclass
class Gauge:
    """Measures stages, always on the same images.

    Args:
        model: the network.
        score: measures it on the validation images; None where there are none.
        calibration: batches on which the logits are compared with the original's; None for no such comparison.
        accelerator: device and precision.
        reference: the network whose logits are the original's; the network as it came where there is none.
    """

    model: nn.Module
    score: Score | None
    calibration: Batches | None
    accelerator: Accelerator
    reference: nn.Module | None = None
    _images: DataLoader[Any] | None = field(default=None, init=False)
    _wanted: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.calibration is not None:
            self._images = _first_images(self.calibration)
            original = self.model if self.reference is None else self.reference
            self._wanted = logits(original, self._images, accelerator=self.accelerator)

    def stage(
        self,
        name: StageName,
        target: str | None,
        start: float,
        figures: Figures | None = None,
        compared: tuple[float, float] | None = None,
    ) -> Stage:
        """Return the figures of the network as it stands.

        Args:
            name: what has just happened.
            target: to what.
            start: `time.perf_counter()` when it began.
            figures: those of the validation images, where they were measured already.
            compared: drift and agreement, likewise.
        """
        drift, agreement = compared or self._compared(self.model, name == "original" and self.reference is None)
        if figures is None:
            figures = Figures() if self.score is None else _figures(self.score(self.model))
        top1, top5, loss, metrics = figures
        return Stage(name, top1, top5, loss, drift, agreement, time.perf_counter() - start, target, metrics)

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

    def _compared(self, model: nn.Module, asked: bool = False) -> tuple[float, float] | tuple[None, None]:
        """Return drift and agreement; `asked` where the network is the original, whose answers are known."""
        if self._images is None or self._wanted is None:
            return None, None
        answers = self._wanted if asked else logits(model, self._images, accelerator=self.accelerator)
        return compare_logits(self._wanted, answers)


def _figures(scores: Scores | Metrics) -> Figures:
    if isinstance(scores, Scores):
        return Figures(scores.top1, scores.top5, scores.loss)
    return Figures(metrics=dict(scores.values))


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
