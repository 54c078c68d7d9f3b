"""One process does a run of a comparison; the others see that by a lock, which a process that is killed lets go."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from surgeon.errors import OutputError
from surgeon.operate.locks import locked

CLAIM = "claim"


def make_folder(folder: Path) -> None:
    """Make a folder of results where it is missing.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Write elsewhere with -o."
        ) from error


@contextlib.contextmanager
def claimed(folder: Path, is_over: Callable[[], bool]) -> Iterator[bool]:
    """Hold a run while the context lasts, and tell whether that is so: another process may be at it.

    Args:
        folder: of the run; made where it is missing.
        is_over: tells whether there is nothing left to hold.

    Raises:
        OutputError: the folder cannot be made, or nothing in it be locked.
    """
    make_folder(folder)
    lock = locked(folder / CLAIM)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        if is_over():
            # Only now: whoever gets hold of the file that is gone finds the outcome.
            with contextlib.suppress(OSError):
                (folder / CLAIM).unlink(missing_ok=True)
        lock.release()


def tidy(folder: Path) -> None:
    """Remove what a process has left that was killed when its run was over and the claim was to go.

    Args:
        folder: of a run whose outcome is known.
    """
    if not (folder / CLAIM).exists():
        return
    with contextlib.suppress(OutputError), claimed(folder, lambda: True):
        pass
