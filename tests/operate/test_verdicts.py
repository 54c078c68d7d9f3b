"""What is said of a difference: never more than its noise, the number of methods and the budget allow."""

import pytest

from surgeon.operate.paired import Difference, paired_difference
from surgeon.operate.verdicts import Finding, conclusion, is_beyond_noise, verdict

CLEAR = Difference(0.5, 0.1, 0.25, 0.75, 0.01, (0, 1, 2))
WEAK = Difference(-0.5, 0.1, -0.9, -0.1, 0.04, (0, 1, 2))
NONE = Difference(0.1, 0.4, -0.9, 1.1, 0.7, (0, 1, 2))


def test_a_gain_beyond_noise_is_told_with_its_interval() -> None:
    told = verdict(CLEAR, 0.01, methods=1, seeds=3)
    assert told == "better than the control by 0.50 points (95 % interval +0.25 … +0.75, 3 seeds)"


def test_a_loss_is_told_likewise() -> None:
    assert verdict(WEAK, 0.04, methods=1, seeds=3).startswith("worse than the control by 0.50 points (95 % interval")


def test_what_is_within_noise_is_no_difference() -> None:
    assert verdict(NONE, 0.7, methods=1, seeds=3).startswith(
        "no difference beyond noise at 3 seeds (+0.10 points, 95 %"
    )


def test_among_several_methods_one_interval_alone_is_not_enough() -> None:
    assert verdict(WEAK, 0.12, methods=3, seeds=3) == (
        "undecided at 3 seeds: worse by its own interval (-0.50 points, 95 % interval -0.90 … -0.10), but not once "
        "that is adjusted for 3 methods"
    )


def test_one_seed_tells_nothing() -> None:
    one = paired_difference({0: 81.0}, {0: 80.0})
    assert verdict(one, None, methods=1, seeds=1) == "+1.00 points at one seed, which tells nothing about noise"
    assert not is_beyond_noise(one, None)
    assert "give --seeds 3" in conclusion([Finding("a", one, None)], seeds=1)


def test_differences_that_are_all_the_same_have_no_verdict() -> None:
    control = {0: 80.0, 1: 81.3}
    alike = paired_difference({0: 80.1, 1: 81.4}, control)
    assert "no verdict" in verdict(alike, None, methods=1, seeds=2)
    assert verdict(paired_difference(control, control), None, methods=1, seeds=2) == "no difference at 2 seeds"


@pytest.mark.parametrize(("budget", "words"), [(2.0, "with 2.0 times the control's training images"), (1.0, "")])
def test_a_larger_budget_is_told(budget: float, words: str) -> None:
    told = verdict(CLEAR, 0.01, methods=1, seeds=3, budget=budget)
    assert told.endswith(words or "3 seeds)")


def test_seeds_that_failed_are_told() -> None:
    assert "2 of 5 seeds have no such pair" in verdict(CLEAR, 0.01, methods=1, seeds=5)
    assert verdict(None, None, methods=1, seeds=3).startswith("not compared")


def test_the_conclusion_names_what_is_beyond_noise() -> None:
    methods = [Finding("a", CLEAR, 0.01), Finding("b", WEAK, 0.04), Finding("c", NONE, 0.7)]
    assert conclusion(methods, seeds=3) == (
        "At 3 seeds, better than the control beyond noise: a; worse than the control beyond noise: b."
    )
    assert conclusion([Finding("b", WEAK, 0.12), Finding("c", NONE, 0.7)], seeds=3) == (
        "At 3 seeds, no method differs from the control beyond noise; undecided: b."
    )
    assert conclusion([Finding("c", NONE, 0.7)], seeds=3) == (
        "At 3 seeds, no method differs from the control beyond noise."
    )
    assert conclusion([Finding("d", None, None)], seeds=3) == "No method could be compared with the control."


def test_the_conclusion_claims_nothing_of_what_was_not_tested() -> None:
    control = {0: 80.0, 1: 81.0, 2: 82.0}
    alike = paired_difference({seed: value + 5 for seed, value in control.items()}, control)
    single = paired_difference({1: 81.0}, control)
    untested = [Finding("alike", alike, None), Finding("single", single, None, (0, 2))]
    assert conclusion(untested, seeds=3) == (
        "No method could be tested, since the pairs of runs are too few or do not show their noise: alike, single."
    )
    assert conclusion([*untested, Finding("gone", None, None, (0, 1, 2)), Finding("c", NONE, 0.7)], seeds=3) == (
        "At 3 seeds, no method that was tested differs from the control beyond noise; not tested: alike, single, gone."
    )


def test_the_conclusion_counts_the_pairs_and_names_the_seeds_that_failed() -> None:
    assert conclusion([Finding("a", CLEAR, 0.01, (1, 4))], seeds=5) == (
        "At 3 seeds, better than the control beyond noise: a (at 3 of 5 seeds; a run failed at 1, 4)."
    )
    five = Difference(0.1, 0.4, -0.4, 0.6, 0.6, (0, 1, 2, 3, 4))
    told = conclusion([Finding("a", CLEAR, 0.01, (1, 4)), Finding("c", five, 0.6)], seeds=5)
    assert told.startswith("At 3 to 5 seeds, better")
