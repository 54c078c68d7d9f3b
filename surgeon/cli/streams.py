"""stdout and stderr on full disks: what cannot be said ends no run, and that results cannot be written is told."""

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from surgeon.errors import OutputError


class _Stream(io.FileIO):
    """What is written to a descriptor, of which nothing more is tried after the first failure that was told.

    Args:
        descriptor: stays open.
        name: of the stream where its failure is an error; None where nobody has to hear of it.
    """

    def __init__(self, descriptor: int, name: str | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = name
        self._failed = False

    def write(self, content: Any, /) -> int:
        if self._failed:
            return len(content)
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            self._failed = True
            raise
        except OSError as error:
            if self._title is None:
                return len(content)
            self._failed = True
            raise OutputError(
                f"{self._title} cannot be written: {error.strerror}.", "Make room, or send it elsewhere."
            ) from error


@contextmanager
def guarded() -> Iterator[None]:
    """Have a full disk under stdout told as an error, and one under stderr passed over, while the context lasts."""
    with ExitStack() as stack:
        if (stdout := _guarded(sys.stdout, "stdout")) is not None:
            stack.callback(stdout.flush)
            stack.enter_context(redirect_stdout(stdout))
        if (stderr := _guarded(sys.stderr, None)) is not None:
            stack.enter_context(redirect_stderr(stderr))
        yield


def _guarded(stream: TextIO | None, name: str | None) -> TextIO | None:
    """Return the same stream with another end, or None where it is no file."""
    if stream is None:
        return None
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (AttributeError, OSError):
        return None
    buffered = io.BufferedWriter(_Stream(descriptor, name))
    lines = name is None or stream.isatty()
    return io.TextIOWrapper(buffered, stream.encoding, stream.errors, line_buffering=lines)
