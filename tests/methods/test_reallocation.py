"""Reallocation: the expansion rate, rounding and what is left over, against widths that were worked out by hand."""

import random
from itertools import pairwise

import pytest

from surgeon.coupling.graph import ChannelGroup
from surgeon.errors import LayerError
from surgeon.methods.reallocation import Allocation, Sizes, allocate, expanded

INPUTS, CLASSES = 3, 10


def groups(*living: int) -> dict[ChannelGroup, int]:
    return {ChannelGroup(str(place), width + 1, (), True): width for place, width in enumerate(living)}


def chain(sizes: Sizes) -> int:
    """The weights of 1x1 convolutions one behind the other, and of a classifier."""
    widths = [INPUTS, *sizes.values(), CLASSES]
    return sum(read * written for read, written in pairwise(widths))


def allocated(budget: int, *living: int, round_to: int = 1) -> Allocation:
    width = groups(*living)
    return allocate([(group,) for group in width], width, chain, budget, round_to)


# 3a + ab + 10b from (2, 4): (3, 7) costs 100 and (4, 7) 110, from a rate of 1.75; (4, 8) costs 124, from 1.875.
@pytest.mark.parametrize(
    ("budget", "rate", "widths", "cost"),
    [
        (54, 1.125, [2, 4], 54),
        (100, 1.75, [3, 7], 100),
        (112, 1.875, [4, 7], 110),
        # What is left does not suffice for a channel of the second, which was rounded down most, but for the first's.
        (121, 1.875, [5, 7], 120),
        (124, 2.125, [4, 8], 124),
    ],
)
def test_a_chain_of_two_layers_by_hand(budget: int, rate: float, widths: list[int], cost: int) -> None:
    found = allocated(budget, 2, 4)
    assert list(found.widths.values()) == widths
    assert found.cost == cost
    assert found.rate == pytest.approx(rate, rel=1e-12)


def test_of_layers_that_grow_together_those_get_a_channel_that_it_suffices_for() -> None:
    # 3a + ab + bc + 10c from (3, 3, 6): (3, 3, 7) costs 109, (4, 3, 7) 115, (4, 4, 7) 126, from a rate of 7/6.
    for budget, widths, cost in ((114, [3, 3, 7], 109), (120, [4, 3, 7], 115), (126, [4, 4, 7], 126)):
        found = allocated(budget, 3, 3, 6)
        assert (list(found.widths.values()), found.cost) == (widths, cost)
    assert allocated(120, 3, 3, 6).rate == pytest.approx(7 / 6, rel=1e-12)


def test_widths_are_multiples_and_raised_to_the_next_one() -> None:
    # (4, 4) costs 68, (4, 8) 124 from a rate of 1.5, (4, 12) 180 from 2.5, and (8, 8) 168.
    found = allocated(130, 2, 4, round_to=4)
    assert (list(found.widths.values()), found.cost) == ([4, 8], 124)
    assert found.rate == pytest.approx(2.5, rel=1e-12)
    assert list(allocated(168, 2, 4, round_to=4).widths.values()) == [8, 8]
    assert [expanded(width, 1.0, 8) for width in (1, 8, 9, 12)] == [8, 8, 16, 16]
    assert [expanded(5, rate) for rate in (0.0, 1.09, 1.1, 1.3)] == [5, 5, 6, 7]


def test_the_groups_of_a_family_get_as_many_channels() -> None:
    living = groups(3, 1, 0)
    one, two, three = living
    found = allocate([(one, two), (three,)], living, lambda sizes: sum(sizes.values()), 9)
    # From a rate of 1.5 on they are (5, 5, 2); the group without a living channel counts as one of one.
    assert list(found.widths.values()) == [4, 4, 1]
    found = allocate([(one, two), (three,)], living, lambda sizes: sum(sizes.values()), 12)
    assert list(found.widths.values()) == [5, 5, 2]


def test_a_budget_below_what_lives_is_refused_with_both_numbers() -> None:
    with pytest.raises(LayerError, match="53") as error:
        allocated(53, 2, 4)
    assert "54" in error.value.problem
    assert "round_to" not in error.value.remedy
    with pytest.raises(LayerError, match="68 of the 67") as error:
        allocated(67, 2, 4, round_to=4)
    assert "round_to" in error.value.remedy


def test_it_is_never_above_the_budget_and_less_than_one_step_below() -> None:
    numbers = random.Random(0)
    for _ in range(60):
        living = [numbers.randint(1, 40) for _ in range(numbers.randint(1, 6))]
        round_to = numbers.choice([1, 1, 2, 8])
        least = chain(groups(*(expanded(width, 0.0, round_to) for width in living)))
        rate = 0.0
        for budget in sorted(least + numbers.randint(0, 4 * least) for _ in range(3)):
            found = allocated(budget, *living, round_to=round_to)
            widths = list(found.widths.values())
            assert found.cost == chain(found.widths) <= budget
            assert all(width >= own and width % round_to == 0 for width, own in zip(widths, living, strict=True))
            assert found.rate >= rate
            steps = [
                chain(groups(*(width + round_to * (one == place) for place, width in enumerate(widths)))) - found.cost
                for one in range(len(widths))
            ]
            assert budget - found.cost < max(steps)
            # By one more than the rate says at most.
            most = [expanded(width, found.rate, round_to) + round_to for width in living]
            assert all(width <= limit for width, limit in zip(widths, most, strict=True))
            rate = found.rate
