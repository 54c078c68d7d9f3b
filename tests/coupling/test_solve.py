"""From facts to groups, on ledgers written by hand."""

import numpy as np

from surgeon.coupling.ledger import AxisKey, Ledger
from surgeon.coupling.solve import ALONE, solve


def groups(ledger: Ledger) -> list[list[int]]:
    """Return the groups as sorted lists of elements."""
    solution = solve(ledger)
    classes = solution.group[solution.channel]
    return sorted(np.flatnonzero(classes == group).tolist() for group in np.unique(classes[classes >= 0]))


def axis(ledger: Ledger, name: str, size: int) -> np.ndarray:
    return ledger.axis(AxisKey(name, 0), size)


def test_an_empty_ledger_has_no_channels() -> None:
    solution = solve(Ledger())
    assert solution.channel.size == solution.group.size == 0


def test_each_axis_is_a_group_of_its_own() -> None:
    ledger = Ledger()
    axis(ledger, "a", 3)
    axis(ledger, "b", 2)
    assert groups(ledger) == [[0, 1, 2], [3, 4]]


def test_an_axis_asked_for_twice_is_one_axis() -> None:
    ledger = Ledger()
    assert axis(ledger, "a", 3) is axis(ledger, "a", 3)
    assert ledger.size == 3


def test_united_elements_are_one_channel() -> None:
    ledger = Ledger()
    first, second = axis(ledger, "a", 3), axis(ledger, "b", 3)
    ledger.unite(first, second[[2, 0, 1]])
    solution = solve(ledger)
    assert solution.channel[[0, 1, 2]].tolist() == solution.channel[[5, 3, 4]].tolist()
    assert np.unique(solution.channel).size == 3
    assert groups(ledger) == [[0, 1, 2, 3, 4, 5]]


def test_uniting_is_transitive() -> None:
    ledger = Ledger()
    first = axis(ledger, "a", 2)
    for name in "bcd":
        second = axis(ledger, name, 2)
        ledger.unite(first, second)
        first = second
    assert solve(ledger).channel.tolist() == [0, 1] * 4


def test_a_cut_splits_a_group() -> None:
    ledger = Ledger()
    elements = axis(ledger, "a", 6)
    ledger.separate(elements[:2])
    ledger.separate(elements[1:4])
    # 0 | 1 | 2, 3 | 4, 5: every set must be kept, and one channel alone is no group.
    assert groups(ledger) == [[2, 3], [4, 5]]
    solution = solve(ledger)
    assert [solution.reasons[i] for i in solution.reason[:2]] == [ALONE, ALONE]


def test_keys_split_a_set() -> None:
    ledger = Ledger()
    ledger.separate(axis(ledger, "a", 6), np.array([0, 0, 1, 1, 2, 0]))
    assert groups(ledger) == [[0, 1, 5], [2, 3]]


def test_keys_are_broadcast_along_the_elements() -> None:
    ledger = Ledger()
    ledger.separate(axis(ledger, "a", 6).reshape(2, 3), np.array([[0], [1]]))
    assert groups(ledger) == [[0, 1, 2], [3, 4, 5]]


def test_frozen_channels_keep_their_first_reason() -> None:
    ledger = Ledger()
    first, second = axis(ledger, "a", 4), axis(ledger, "b", 4)
    ledger.unite(first, second)
    ledger.freeze(second[1:2], "one")
    ledger.freeze(first[:3], "two")
    solution = solve(ledger)
    assert [solution.reasons[i] if i >= 0 else "" for i in solution.reason[solution.channel[first]]] == [
        "two",
        "one",
        "two",
        ALONE,
    ]
    assert groups(ledger) == []


def test_channels_with_different_numbers_of_elements_cannot_change_places() -> None:
    ledger = Ledger()
    first, second = axis(ledger, "a", 5), axis(ledger, "b", 2)
    ledger.unite(first[:2], second)
    assert groups(ledger) == [[0, 1, 5, 6], [2, 3, 4]]


def test_pairs_with_the_same_keys_correspond() -> None:
    # cat([x, x]) read by one axis: channel c stands at c and c + 2.
    ledger = Ledger()
    x = axis(ledger, "x", 2)
    both = ledger.distinct(np.concatenate([x, x]))
    assert both.tolist() == [0, 1, 2, 3]
    ledger.unite(both, axis(ledger, "w", 4))
    solution = solve(ledger)
    assert groups(ledger) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert solution.channel.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    # Corresponding elements have equal ranks: x itself, its copy, then the two columns.
    assert solution.rank[[0, 2, 4, 6]].tolist() == solution.rank[[1, 3, 5, 7]].tolist()
    assert sorted(solution.rank[[0, 2, 4, 6]].tolist()) == [0, 1, 2, 3]


def test_pairs_with_crossed_keys_do_not_correspond() -> None:
    # Two channels of two elements each; what is first in one is second in the other.
    ledger = Ledger()
    first, second = axis(ledger, "a", 2), axis(ledger, "b", 2)
    ledger.unite(first, second)
    ledger.separate(np.r_[first, second], np.array([0, 1, 1, 0]))
    assert groups(ledger) == []


def test_copies_move_with_their_originals() -> None:
    ledger = Ledger()
    x = axis(ledger, "x", 3)
    copies = ledger.copy(x[:, None], 3, 2)
    assert copies.tolist() == [[3, 4], [5, 6], [7, 8]]
    solution = solve(ledger)
    assert solution.channel.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert solution.rank[copies].tolist() == [[1, 2]] * 3


def test_one_bent_element_makes_its_channel_inhomogeneous() -> None:
    ledger = Ledger()
    first, second = axis(ledger, "a", 3), axis(ledger, "b", 3)
    ledger.unite(first, second)
    ledger.note_inhomogeneous(second[1:2], "It is squared.")
    assert solve(ledger).homogeneous.tolist() == [True, False, True]


def test_the_work_is_linear_in_the_number_of_facts() -> None:
    """A chain of 3,000 axes of 64 channels: quadratic behaviour would take minutes."""
    ledger = Ledger()
    last = axis(ledger, "first", 64)
    for index in range(3000):
        following = axis(ledger, f"axis{index}", 64)
        ledger.unite(last, following)
        if index % 3 == 0:
            last = following
    solution = solve(ledger)
    assert np.unique(solution.group).tolist() == [solution.group[0]]
    assert solution.channel.size == 64 * 3001
