"""Timing several things in turn, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def seconds_of(call: Callable[[], object]) -> float:
    """Give the wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Give the seconds of every call in each of `repetitions` rounds, after one round that is not counted."""
    for call in calls.values():
        call()
    rounds = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(repetitions)]
    return {name: [one[name] for one in rounds] for name in calls}


def spread(values: list[float], digits: int = 3) -> str:
    """Describe values by their median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
