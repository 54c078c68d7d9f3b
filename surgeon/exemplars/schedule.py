"""How the steps of a synthesis are spread over resolutions: a small image costs a fraction of a large one's step."""

from collections.abc import Callable
from dataclasses import dataclass

USUAL_STEPS = 200
"""Where nobody asks for another number."""

SHARES = {4: 0.72, 2: 0.25, 1: 0.03}
"""By how much the sides are divided, and the share of the steps at that size: shapes first, details last."""

SMALLEST_SIDE = 48
"""Below it a network for large images has hardly a pixel left in its last stage."""


@dataclass(frozen=True)
class Stage:
    """Steps at one resolution.

    Args:
        size: height and width.
        steps: at least 1.
    """

    size: tuple[int, int]
    steps: int


def plan_stages(
    size: tuple[int, int], steps: int | None, takes: Callable[[tuple[int, int]], bool]
) -> tuple[Stage, ...]:
    """Return the stages of a synthesis, from coarse to fine.

    Small images have one stage, and so have those of a network that takes images of no smaller size.

    Args:
        size: height and width of the exemplars.
        steps: at least 1, over all stages. None for the usual number; a network of one size then has as few at full
            size as cost what all stages would have.
        takes: whether the network takes images of a height and width.
    """
    coarse = [factor for factor in SHARES if factor > 1 and min(size) // factor >= SMALLEST_SIDE]
    taken = [factor for factor in coarse if takes(_divided(size, factor))]
    if coarse and not taken:
        return (Stage(size, steps or max(1, round(USUAL_STEPS * _cost(coarse)))),)
    steps = steps or USUAL_STEPS
    last = max(1, round(steps * SHARES[1])) if taken else steps
    stages = [Stage(size, last)]
    left = steps - last
    for factor in reversed(taken):
        # The coarsest of them takes what is left.
        count = left if factor == taken[0] else min(left, round(steps * SHARES[factor]))
        stages.insert(0, Stage(_divided(size, factor), count))
        left -= count
    return tuple(stage for stage in stages if stage.steps)


def _divided(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return size[0] // factor, size[1] // factor


def _cost(factors: list[int]) -> float:
    """What a step costs on average where these sizes are taken, in steps at full size."""
    coarsest = factors[0]
    shares = {factor: SHARES[factor] for factor in (*factors, 1)}
    shares[coarsest] += 1 - sum(shares.values())
    return sum(share / factor**2 for factor, share in shares.items())
