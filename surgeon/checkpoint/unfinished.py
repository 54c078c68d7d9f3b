"""Files that are being written: a lock, which ends with its process, tells them from what a killed one has left."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def held(path: Path) -> Iterator[BinaryIO]:
    """A new file, which `remove_unheld` leaves alone while the context lasts, even when it is closed before.

    Raises:
        FileExistsError: the path exists.
        OSError: the file cannot be made.
    """
    while True:
        with path.open("xb") as file, os.fdopen(os.dup(file.fileno()), "wb") as lock:
            _lock(lock.fileno(), wait=True)
            # It was no one's for a moment, and another process may have taken it away in that.
            if path.exists():
                yield file
                return


def remove_unheld(path: Path) -> None:
    """Remove a file, unless a process holds it, or it is no regular one; on a disk without locks none is held.

    Raises:
        OSError: it cannot be removed.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        return
    if sys.platform == "win32":
        # What a process has open, nobody can remove there.
        path.unlink(missing_ok=True)
        return
    # What is put there meanwhile is neither followed nor waited for.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), "wb") as file:
        if _lock(file.fileno(), wait=False):
            path.unlink(missing_ok=True)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file until its last descriptor is closed, and tell whether no other process has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:
            # There are no locks, and whoever was killed shall leave nothing all the same.
            return True
    return True
