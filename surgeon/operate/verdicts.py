"""What the difference of a method to the control allows to say, in words that claim no more."""

from collections.abc import Sequence
from dataclasses import dataclass

from surgeon.operate.paired import LEVEL, Difference

ALARM = 1 - LEVEL
SAME = 0.005
"""Percent points, which are shown with two digits: what is less is no difference."""

MORE = 1.05
"""How many times the control's images count as a larger budget."""


@dataclass(frozen=True)
class Finding:
    """What was found of one method.

    Attributes:
        name: of the method.
        difference: of its top-1 to the control's; None without a pair of runs.
        p_value: of it, adjusted for the number of methods; None where nothing could be tested.
        unpaired: the seeds that are missing in it, since a run failed.
    """

    name: str
    difference: Difference | None
    p_value: float | None
    unpaired: tuple[int, ...] = ()

    @property
    def gain(self) -> float:
        """Mean difference, in percent points; 0 without a pair."""
        return 0.0 if self.difference is None else self.difference.mean

    @property
    def pairs(self) -> int:
        """Number of the seeds that have both runs."""
        return 0 if self.difference is None else len(self.difference.seeds)

    def described(self, seeds: int) -> str:
        """Return the name, and which of its seeds are missing: a method may fail where it would have been worst.

        Args:
            seeds: how many were asked for.
        """
        if not self.unpaired:
            return self.name
        missing = ", ".join(map(str, self.unpaired))
        return f"{self.name} (at {self.pairs} of {seeds} seeds; a run failed at {missing})"


def is_beyond_noise(difference: Difference | None, p_value: float | None) -> bool:
    """Tell whether a difference is one that noise alone rarely makes, all methods of the comparison considered.

    Args:
        difference: to the control.
        p_value: of it, adjusted for the number of methods.
    """
    return difference is not None and p_value is not None and p_value < ALARM


def is_undecided(difference: Difference | None, p_value: float | None) -> bool:
    """Tell whether a difference would be beyond noise if its method were the only one; see `is_beyond_noise`."""
    own = None if difference is None else difference.p_value
    return own is not None and own < ALARM and not is_beyond_noise(difference, p_value)


def verdict(
    difference: Difference | None, p_value: float | None, *, methods: int, seeds: int, budget: float = 1.0
) -> str:
    """Return what can be said of one method.

    Args:
        difference: of its top-1 to the control's, in percent points; None without a pair of runs.
        p_value: of it, adjusted for the number of methods.
        methods: how many are compared.
        seeds: how many were asked for.
        budget: how many times the images of the control it was trained on.
    """
    if difference is None:
        return "not compared: no seed has both its run and the control's"
    words = _finding(difference, p_value, methods)
    if len(difference.seeds) < seeds:
        words += f"; {seeds - len(difference.seeds)} of {seeds} seeds have no such pair, since a run failed"
    if budget > MORE:
        words += f"; with {budget:.1f} times the control's training images"
    return words


def _finding(difference: Difference, p_value: float | None, methods: int) -> str:
    count, mean = len(difference.seeds), difference.mean
    if count == 1:
        return f"{mean:+.2f} points at one seed, which tells nothing about noise"
    if difference.low is None or difference.high is None or difference.p_value is None:
        if abs(mean) < SAME:
            return f"no difference at {count} seeds"
        return f"{mean:+.2f} points at each of {count} seeds alike, so their noise is not known: no verdict"
    interval = f"{100 * LEVEL:.0f} % interval {difference.low:+.2f} … {difference.high:+.2f}"
    side = "better" if mean > 0 else "worse"
    if is_beyond_noise(difference, p_value):
        return f"{side} than the control by {abs(mean):.2f} points ({interval}, {count} seeds)"
    if is_undecided(difference, p_value):
        return (
            f"undecided at {count} seeds: {side} by its own interval ({mean:+.2f} points, {interval}), but not once "
            f"that is adjusted for {methods} methods"
        )
    return f"no difference beyond noise at {count} seeds ({mean:+.2f} points, {interval})"


def conclusion(findings: Sequence[Finding], *, seeds: int) -> str:
    """Return what can be said of all methods together, in a sentence.

    Args:
        findings: one a method.
        seeds: how many were asked for.
    """
    if all(one.difference is None for one in findings):
        return "No method could be compared with the control."
    if seeds == 1:
        return "One seed tells nothing about noise, so there is no verdict: give --seeds 3 or more."
    tested = [one for one in findings if one.p_value is not None]
    untested = ", ".join(one.name for one in findings if one.p_value is None)
    if not tested:
        return f"No method could be tested, since the pairs of runs are too few or do not show their noise: {untested}."
    beyond = [one for one in tested if is_beyond_noise(one.difference, one.p_value)]
    undecided = [one for one in tested if is_undecided(one.difference, one.p_value)]
    groups = {
        "better than the control beyond noise": [one for one in beyond if one.gain > 0],
        "worse than the control beyond noise": [one for one in beyond if one.gain <= 0],
        "undecided": undecided,
    }
    parts = [f"{words}: {', '.join(one.described(seeds) for one in ones)}" for words, ones in groups.items() if ones]
    if not beyond:
        parts.insert(0, f"no method {'that was tested ' if untested else ''}differs from the control beyond noise")
    if untested:
        parts.append(f"not tested: {untested}")
    counts = sorted({one.pairs for one in tested})
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"At {span} seeds, {'; '.join(parts)}."
