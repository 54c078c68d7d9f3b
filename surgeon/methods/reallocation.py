"""How many channels every layer gets when those of dead ones are given to the layers that have most use for them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from surgeon.coupling.graph import ChannelGroup
from surgeon.errors import LayerError

Sizes = Mapping[ChannelGroup, int]
Cost = Callable[[Sizes], int]
"""What a network costs whose groups have these sizes."""

HALVINGS = 64
"""Steps of the bisection, after which the expansion rate is as exact as a number of double precision."""


@dataclass(frozen=True)
class Allocation:
    """How many channels groups get.

    Attributes:
        widths: by group.
        rate: the expansion rate α that all of them share, before widths are rounded.
        cost: of the network with these widths.
    """

    widths: Sizes
    rate: float
    cost: int


def allocate(
    families: Sequence[tuple[ChannelGroup, ...]], living: Sizes, cost: Cost, budget: int, round_to: int = 1
) -> Allocation:
    """Expand what lives by one rate as far as a budget allows, and give what is left in single channels.

    A family gets `round(α · w')` channels a group, where w' is the largest number of living ones, but at least w'. α is
    the largest for which that is within the budget. What is then left goes to the families that were rounded down most,
    `round_to` channels each at most, as long as it suffices. So the cost stays below the budget by less than that of
    one such step of the family that stopped the expansion.

    Args:
        families: groups that have the same size as the others of their family.
        living: by group, how many of its channels stay.
        cost: it grows with every size.
        budget: the largest cost.
        round_to: every size is a multiple of it.

    Raises:
        LayerError: even what lives costs more than the budget.

    Source: Qiao et al., Neural Rejuvenation, section 3.2, "Resource reallocation".
    """
    start = _start(families, living)

    def sizes(widths: Sequence[int]) -> dict[ChannelGroup, int]:
        return {group: width for family, width in zip(families, widths, strict=True) for group in family}

    def at(rate: float) -> list[int]:
        return [expanded(width, rate, round_to) for width in start]

    def spent(widths: Sequence[int]) -> int:
        return cost(sizes(widths))

    least = spent(at(0.0))
    if least > budget:
        rounded, smaller = ("", "") if round_to == 1 else (f", rounded to {round_to}", " or a smaller round_to")
        raise LayerError(
            f"At the smallest widths that keep what lives{rounded}, it takes {least:,} of the {budget:,} that may be.",
            "Let more channels die first (with more epochs in sparsify, or a larger delta_lambda), let residual "
            f"streams take part (include_residual), or allow a larger resource{smaller}.",
        )
    rate = _largest(lambda rate: spent(at(rate)) <= budget)
    widths = at(rate)
    # The first of equal ones, so that the result does not depend on anything but the order of the families.
    for place in sorted(range(len(widths)), key=lambda place: widths[place] - rate * start[place]):
        wider = [width + round_to * (place == other) for other, width in enumerate(widths)]
        if spent(wider) <= budget:
            widths = wider
    return Allocation(sizes(widths), rate, spent(widths))


def least_widths(families: Sequence[tuple[ChannelGroup, ...]], living: Sizes, round_to: int = 1) -> Sizes:
    """Return the smallest sizes of which `allocate` may choose: nothing that lives is lost, and nothing added.

    Args:
        families: groups that have the same size as the others of their family.
        living: by group, how many of its channels stay.
        round_to: every size is a multiple of it.
    """
    widths = [expanded(width, 0.0, round_to) for width in _start(families, living)]
    return {group: width for family, width in zip(families, widths, strict=True) for group in family}


def _start(families: Sequence[tuple[ChannelGroup, ...]], living: Sizes) -> list[int]:
    return [max(1, *(living[group] for group in family)) for family in families]


def expanded(width: int, rate: float, round_to: int = 1) -> int:
    """Return `round(rate · width)`, halves rounded up, as a multiple of `round_to` that is not below the width."""
    least = math.ceil(width / round_to)
    return round_to * max(least, math.floor(rate * width / round_to + 0.5))


def _largest(fits: Callable[[float], bool]) -> float:
    """Return the largest rate, of at least 0, for which something holds that holds for 0 and for no large one."""
    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
