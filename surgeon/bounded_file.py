"""Files that anybody may have written: of regular files alone, and no more of them than is asked for."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from surgeon.bounded_json import BoundError

LONGEST_WIDE = 2**24
"""Bytes of text that may hold letters beyond 16 bits: a single one makes each of all letters take four bytes."""

# As such, or as JSON writes them in ASCII.
_WIDE = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading, and nothing else that may stand under its name: a pipe would wait for its other end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        ValueError: no system takes such a name.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        yield file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path, longest: int) -> str:
    """Return the text of a file in UTF-8.

    Args:
        path: the file.
        longest: bytes, at most.

    Raises:
        OSError: it cannot be read, or is no regular file.
        BoundError: it is longer; see also `decoded`.
        ValueError: it is no UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise BoundError(f"it is larger than {longest} bytes")
    return decoded(content)


def decoded(content: bytes) -> str:
    """Return text in UTF-8.

    Raises:
        BoundError: it is longer than 16 MiB and holds letters beyond 16 bits.
        ValueError: it is no UTF-8.
    """
    if len(content) > LONGEST_WIDE and _WIDE.search(content):
        raise BoundError(f"it is larger than {LONGEST_WIDE} bytes and holds letters beyond 16 bits")
    return content.decode()
