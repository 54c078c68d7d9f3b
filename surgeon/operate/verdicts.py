"""What the difference of a method to the control allows to say, in words that claim no more."""

from collections.abc import Sequence

from surgeon.operate.paired import LEVEL, Difference

ALARM = 1 - LEVEL
SAME = 0.005
"""Percent points, which are shown with two digits: what is less is no difference."""

MORE = 1.05
"""How many times the control's images count as a larger budget."""


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
            f"that is adjusted for {methods} methods; more seeds would tell"
        )
    return f"no difference beyond noise at {count} seeds ({mean:+.2f} points, {interval})"


def conclusion(methods: Sequence[tuple[str, Difference | None, float | None]], *, seeds: int) -> str:
    """Return what can be said of all methods together, in a sentence.

    Args:
        methods: name, difference to the control and adjusted p-value.
        seeds: how many were asked for.
    """
    known = [(name, one, p_value) for name, one, p_value in methods if one is not None]
    if not known:
        return "No method could be compared with the control."
    if seeds == 1:
        return "One seed tells nothing about noise, so there is no verdict: give --seeds 3 or more."
    beyond = [(name, one.mean > 0) for name, one, p_value in known if is_beyond_noise(one, p_value)]
    parts = []
    for better, word in ((True, "better"), (False, "worse")):
        names = [name for name, is_better in beyond if is_better is better]
        if names:
            parts.append(f"{word} than the control beyond noise: {', '.join(names)}")
    open_ones = [name for name, one, p_value in known if is_undecided(one, p_value)]
    if open_ones:
        parts.append(f"undecided, for want of seeds: {', '.join(open_ones)}")
    if not beyond and not open_ones:
        return f"No method differs from the control beyond noise at {seeds} seeds."
    if not beyond:
        parts.insert(0, "no method differs from the control beyond noise")
    return f"At {seeds} seeds, {'; '.join(parts)}."
