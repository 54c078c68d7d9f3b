"""Files of JSON that runs have written down; in a foreign folder anything may stand under their names."""

from pathlib import Path
from typing import Any

from surgeon.bounded_file import read_text
from surgeon.bounded_json import parse

LARGEST_FILE = 2**26
"""Bytes."""

MOST_VALUES, DEEPEST = 2**20, 40


def read_told(path: Path) -> Any:
    """Return what a file says, of which no more is read than runs write.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no JSON, or more of it than is taken.
    """
    return parse_told(read_text(path, LARGEST_FILE))


def parse_told(text: str) -> Any:
    """Return what a text says that a run has written down; the numbers of such may be none.

    Raises:
        ValueError: it is no JSON, or more of it than is taken.
    """
    return parse(text, most=MOST_VALUES, deepest=DEEPEST, constant=float)
