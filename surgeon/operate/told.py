"""Files of JSON that runs have written down; in a foreign folder anything may stand under their names."""

from pathlib import Path
from typing import Any

from surgeon.bounded_json import BoundError, parse

LARGEST_FILE = 2**26
"""Bytes."""

MOST_VALUES, DEEPEST = 2**20, 40


def read_told(path: Path) -> Any:
    """Return what a file says, of which no more is read than runs write.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is no regular file, no JSON, or more of it than is taken.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise BoundError(f"it is larger than {LARGEST_FILE} bytes")
    return parse_told(content.decode())


def parse_told(text: str) -> Any:
    """Return what a text says that a run has written down; the numbers of such may be none.

    Raises:
        ValueError: it is no JSON, or more of it than is taken.
    """
    return parse(text, most=MOST_VALUES, deepest=DEEPEST, constant=float)
