"""Locks on files, which a process that is killed lets go."""

import contextlib
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from surgeon.errors import OutputError


def locked(file: Path, patience: float = 0.0) -> FileLock | None:
    """Take the lock on a file, which is made where it is missing; None where another process has it.

    Args:
        file: what is locked.
        patience: seconds to wait for another process.

    Raises:
        FileNotFoundError: its folder is not there.
        OutputError: it cannot be locked.
    """
    there = file.exists()
    lock = FileLock(file, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        return None
    except FileNotFoundError:
        raise
    # filelock raises the latter where a system has no such locks at all.
    except (OSError, NotImplementedError) as error:
        raise _unlockable(file, there, getattr(error, "strerror", None) or str(error)) from error
    if isinstance(lock, SoftFileLock):
        # What filelock takes to instead: a file that a process that is killed leaves behind for ever.
        lock.release()
        raise _unlockable(file, there, "the disk has no locks")
    return lock


def _unlockable(file: Path, there: bool, reason: str) -> OutputError:
    if not there:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
    return OutputError(f"{file} cannot be locked: {reason}.", "Make room there, or write to another disk with -o.")
