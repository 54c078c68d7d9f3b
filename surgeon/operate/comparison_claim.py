"""One process does a run of a comparison; the others see that by a lock, which a process that is killed lets go."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from surgeon.errors import OutputError

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
    lock = _lock(folder / CLAIM)
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


def _lock(file: Path) -> FileLock | None:
    """Take the lock, or return None where another process has it."""
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    # filelock raises the latter where a system has no such locks at all.
    except (OSError, NotImplementedError) as error:
        raise _unlockable(file, str(error)) from error
    if isinstance(lock, SoftFileLock):
        # What filelock takes to instead: a file that a process that is killed leaves behind for ever.
        lock.release()
        raise _unlockable(file, "the disk has no locks")
    return lock


def _unlockable(file: Path, reason: str) -> OutputError:
    return OutputError(f"{file} cannot be locked: {reason}.", "Write to a disk that supports locks with -o.")
