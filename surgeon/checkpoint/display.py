"""Text from untrusted files, made fit for a terminal."""

from collections.abc import Iterable

LONGEST = 120
LISTED = 10


def shown(text: object) -> str:
    """One line of printable characters, at most 120 of them: a file's names may hold control characters."""
    line = str(text)
    if not line.isprintable():
        line = ascii(line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def listed(names: Iterable[object]) -> str:
    """The first ten names, separated by commas, and how many more there are."""
    everything = [shown(name) for name in names]
    more = len(everything) - LISTED
    return ", ".join(everything[:LISTED]) + (f" and {more} more" if more > 0 else "")
