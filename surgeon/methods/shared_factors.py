"""The factors of `channel-regeneration --preserve`: one for everything that writes the same channel, and no runaway.

A channel of a residual stream is written by several BatchNorms, and their scales share its factor. What the weakest of
them needs would lift a strong one just as far; as the threshold is taken anew at every repetition, both would grow
without end. So no factor lifts a scale beyond what is strong already.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.coupling.graph import Scaling

LARGEST_FACTOR = 1e6
"""Beyond it single precision could not hold the columns and the shift together."""

NEARLY = 1 - 1e-9
"""A product of quotients reaches its goal to this accuracy in double precision."""


@dataclass(frozen=True)
class Bounds:
    """How far scales may go.

    Attributes:
        threshold: what weak scales are raised to, above 0.
        factor: the largest factor, above 1.
        reach: no scale is lifted beyond it, at least the threshold; infinite for no bound.
    """

    threshold: float
    factor: float
    reach: float


def bounds(threshold: float, magnitudes: Collection[Tensor], max_factor: float | None) -> Bounds:
    """Return how far scales may go in one operation.

    The reach is `max_factor` times the threshold, and at most the largest scale there is. The latter alone keeps
    repetitions bounded: they raise the threshold, but never the largest scale.

    Args:
        threshold: what weak scales are raised to, above 0.
        magnitudes: the selected scales' magnitudes, each `[C]`.
        max_factor: the largest factor, or None, which bounds nothing but what single precision can hold.
    """
    if max_factor is None:
        return Bounds(threshold, LARGEST_FACTOR, math.inf)
    largest = max(float(magnitude.max()) for magnitude in magnitudes)
    most = min(max_factor, LARGEST_FACTOR)
    return Bounds(threshold, most, min(most * threshold, max(largest, threshold)))


def places(scaling: Scaling) -> dict[str, Tensor]:
    """Return, for every tensor whose rows or entries write channels, the numbers of its factors, -1 for none."""
    return {part.tensor: part.scale for part in scaling.parts if part.dim == 0 and not part.divided}


def shared_factors(
    scaling: Scaling, magnitudes: Mapping[str, Tensor], weak: Mapping[str, Tensor], limits: Bounds
) -> Tensor:
    """Return for every channel the smallest of three factors, and never less than 1.

    They are: what its weakest scale needs to reach the threshold, the largest factor allowed, and what its strongest
    scale needs to get to the reach.

    Args:
        scaling: which scales share a factor.
        magnitudes: of all BatchNorm scales of the network by state-dict key, selected or not, float64 `[C]`.
        weak: by key, bool `[C]`, the scales that are to be raised.
        limits: how far they may go.

    Returns:
        float64 `[scaling.size]`.
    """
    needed = torch.ones(scaling.size, dtype=torch.float64)
    strongest = torch.zeros_like(needed)
    for key, numbers in places(scaling).items():
        if key not in magnitudes:
            continue
        magnitude, free = magnitudes[key], numbers >= 0
        strongest.scatter_reduce_(0, numbers[free], magnitude[free], "amax")
        if key in weak:
            raised = free & weak[key] & (magnitude > 0)
            needed.scatter_reduce_(0, numbers[raised], limits.threshold / magnitude[raised], "amax")
    allowed = torch.minimum(limits.reach / strongest, torch.full_like(needed, limits.factor))
    return torch.minimum(needed, allowed).clamp(min=1)


def taken(numbers: Tensor, factors: Tensor) -> Tensor:
    """Return the factor at every position, 1 where there is none."""
    return torch.where(numbers >= 0, factors[numbers], 1.0) if len(factors) else torch.ones(numbers.shape).double()


def shortfalls(
    key: str, magnitude: Tensor, weak: Tensor, scaling: Scaling, factors: Tensor, limits: Bounds
) -> list[str]:
    """Return what is to be said of the weak scales of one BatchNorm that do not reach the threshold.

    Args:
        key: state-dict key of the scale.
        magnitude: float64 `[C]`.
        weak: bool `[C]`.
        scaling: which channels have a factor.
        factors: float64 `[scaling.size]`.
        limits: what they were chosen by.
    """
    numbers = places(scaling).get(key, torch.full(weak.shape, -1))
    own = taken(numbers, factors)
    bound, silent = weak & (numbers < 0), weak & (numbers >= 0) & (magnitude == 0)
    short = weak & ~bound & ~silent & (magnitude * own < limits.threshold * NEARLY)
    held = short & (own < limits.factor)
    unbound = int((numbers < 0).sum())
    counted = [
        (bound, f"weak scales are left alone. {_reasons(scaling, key, unbound)}"),
        (silent, "scales are left alone: they are zero, and no factor lifts zero."),
        (short & ~held, f"scales are raised {limits.factor:g}-fold, the most at a time, and stay below the threshold."),
        (held, f"scales stay below the threshold: a scale that shares their factor would pass {limits.reach:.3g}."),
    ]
    return [f"{key}: {int(mask.sum())} {what}" for mask, what in counted if bool(mask.any())]


def _reasons(scaling: Scaling, key: str, unbound: int) -> str:
    """Return why channels of one BatchNorm have no factor, each reason with the number of its channels."""
    counts = dict(scaling.reasons.get(key, {}))
    rest = unbound - sum(counts.values())
    if rest > 0:
        counts["Nothing that reads them takes a factor up."] = rest
    return " ".join(f"{count} channel{'' if count == 1 else 's'}: {reason}" for reason, count in counts.items())
