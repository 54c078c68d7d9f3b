"""The options of a synthesis."""

import math
from dataclasses import dataclass

from surgeon.errors import OptionError

MOST_IN_BATCH = 64


@dataclass(frozen=True)
class SynthesisConfig:
    """How exemplars are made.

    Args:
        count: number of images, at least 1.
        steps: of the optimization, at least 1; None for as many as are usual, see `plan_stages`.
        size: height and width, at least 1; None for the network's own.
        seed: of the first noise, the jitter and the flips, at least 0.
        lr: largest step of Adam a pixel, in normalized values, above 0; it falls along a cosine at every resolution.
        statistics_weight: of the BatchNorm statistics' distance in the loss; the cross-entropy counts 1.
        variation_weight: of the total variation.
        norm_weight: of the mean square.
        batch_size: images that are made together, at least 1; memory grows with it.

    Raises:
        OptionError: a value is out of its range.
    """

    count: int = 32
    steps: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    lr: float = 0.25
    statistics_weight: float = 0.1
    variation_weight: float = 0.1
    norm_weight: float = 0.01
    batch_size: int = MOST_IN_BATCH

    def __post_init__(self) -> None:
        _check("number of exemplars", self.count, self.count >= 1, "at least 1")
        _check("number of exemplar steps", self.steps, self.steps is None or self.steps >= 1, "at least 1")
        _check("batch size of exemplars", self.batch_size, self.batch_size >= 1, "at least 1")
        _check("size of exemplars", self.size, self.size is None or min(self.size) >= 1, "two positive numbers")
        _check("seed", self.seed, self.seed >= 0, "at least 0")
        _check("step size of exemplars", self.lr, 0 < self.lr < math.inf, "a number above 0")
        for name in ("statistics_weight", "variation_weight", "norm_weight"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "at least 0")


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise OptionError(f"The {name} is {value}.", f"Give a value that is {expected}.")
