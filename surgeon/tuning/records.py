"""What a fine-tuning reports: the figures of every epoch, and which of them was the best."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Any

from torch import Tensor, nn

from surgeon.errors import OptionError
from surgeon.tuning.evaluate import Scores


@dataclass(frozen=True)
class Metrics:
    """What a network achieves at any task, by the names of its figures.

    Args:
        values: the figures by name, e.g. `{"mean IoU": 0.41, "loss": 1.2}`.
        best_by: the figure that says which epoch is the best.
        larger_is_better: whether the best is the largest.

    Raises:
        OptionError: there is no figure `best_by`.
    """

    values: Mapping[str, float]
    best_by: str
    larger_is_better: bool = True

    def __post_init__(self) -> None:
        if self.best_by not in self.values:
            raise OptionError(
                f"The best epoch is chosen by {self.best_by!r}, which is not measured.",
                f"Choose one of: {', '.join(self.values) or 'none, as there are no figures'}.",
            )

    @property
    def rank(self) -> float:
        """What is compared between epochs: larger is better, and NaN is worse than anything."""
        value = float(self.values[self.best_by])
        if isnan(value):
            return -inf
        return value if self.larger_is_better else -value


Score = Callable[[nn.Module], Scores | Metrics]
"""`score(model)` measures the network as it stands; it keeps its mode and its weights."""


@dataclass(frozen=True)
class EpochRecord:
    """What happened in one epoch.

    Args:
        epoch: number of the epoch, from 0.
        lr: learning rate of the epoch's first update.
        train_loss: mean training loss, teacher, smoothing and orthogonal loss included.
        top1: top-1 on the validation images after the epoch, in percent; None where the task is not classification,
            like the next two.
        top5: top-5 on the validation images after the epoch, in percent.
        loss: mean cross-entropy on the validation images.
        seconds: wall-clock time of training and evaluation.
        images_per_second: training images a second, evaluation left out.
        operation: what `between_epochs` returned before this epoch.
        metrics: the figures of another task by name; empty for classification.
        phase: what was trained, e.g. `sub-network`, where the fine-tuning has phases.
    """

    epoch: int
    lr: float
    train_loss: float
    top1: float | None
    top5: float | None
    loss: float | None
    seconds: float
    images_per_second: float
    operation: dict[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    phase: str | None = None


@dataclass(frozen=True)
class Tuned:
    """The course of a fine-tuning; the last weights are in the model itself.

    Args:
        epochs: one record an epoch.
        best_epoch: the first epoch with the best scores: the highest top-1, or what `Metrics.best_by` says. An epoch in
            which a part of the network was held at zero is none.
        best_state: the state dict after that epoch, copied to the CPU.
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    best_state: dict[str, Tensor]


def epoch_record(scores: Scores | Metrics, **figures: Any) -> EpochRecord:
    """Return the record of an epoch: these scores beside the figures of its training, by the record's names."""
    if isinstance(scores, Scores):
        return EpochRecord(top1=scores.top1, top5=scores.top5, loss=scores.loss, **figures)
    values = {name: float(value) for name, value in scores.values.items()}
    return EpochRecord(top1=None, top5=None, loss=None, metrics=values, **figures)
