"""JSON that anybody may have written: how much it holds is known before any of it is made."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

# A text, to its end or that of everything, or what stands for a value that is made. None of it goes back on its steps.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)

SHOWN = 60
"""Characters of a name in a message."""


class BoundError(ValueError):
    """JSON that is sound, and more than what is taken; the message goes on from `it`."""


def parse(
    text: str, *, most: int, deepest: int, repeats: bool = True, constant: Callable[[str], Any] | None = None
) -> Any:
    """Return what JSON says.

    Args:
        text: the JSON. It is in memory already: its length is the caller's to bound.
        most: values in it, at most; each may take 200 bytes.
        deepest: lists and objects in each other, at most.
        repeats: take objects that have a name twice, and the last value of it.
        constant: what NaN and infinities become; without it they are refused.

    Raises:
        BoundError: there is more in it.
        ValueError: it is no JSON.
    """
    _check_extent(text, most, deepest)
    return json.loads(
        text, object_pairs_hook=None if repeats else _without_repeats, parse_constant=constant or _no_constant
    )


def _check_extent(text: str, most: int, deepest: int) -> None:
    count, depth = 1, 0
    for token in _TOKEN.finditer(text):
        letter = text[token.start()]
        if letter in "[{":
            depth += 1
            count += 1
            if depth > deepest:
                raise BoundError(f"it is nested deeper than {deepest}")
        elif letter in "]}":
            depth -= 1
        else:
            count += letter == ","
        if count > most:
            raise BoundError(f"it has more than {most} values")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, other in pairwise(names) if name == other)
        raise BoundError(f"it has {twice[:SHOWN]!a} twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
