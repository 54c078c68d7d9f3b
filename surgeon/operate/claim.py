"""What a job writes to is its own while it runs: no second run works there, and no killed one's debris stays."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from surgeon.checkpoint.write import remove_leftovers
from surgeon.errors import OutputError
from surgeon.operate.job import Job
from surgeon.operate.states import StateFolder
from surgeon.processes import is_main

LOCK = "lock"
PATIENCE = 10.0
"""Seconds: processes that read images outlive a run that was killed by a few, and its lock with them."""

TRIES = 3
"""A folder that another run removes as it ends is made anew so often."""


@contextlib.contextmanager
def claimed(job: Job) -> Iterator[None]:
    """Hold a job's outputs while the context lasts, and remove first what runs that were killed have left there.

    The main process does, for all.

    Args:
        job: what will be done.

    Raises:
        OutputError: another run works there, or the folder of states cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if is_main():
            if job.result.parent.is_dir():
                stack.enter_context(_held(job.claim))
                job.claim.tidy()
            for path in (job.result, job.record, job.best, job.exemplar_file, *job.reports):
                remove_leftovers(path)
        yield


@contextlib.contextmanager
def _held(states: StateFolder) -> Iterator[None]:
    if states.path.exists() and not states.path.is_dir():
        # It is refused where it is read.
        yield
        return
    file = states.path / LOCK
    lock = _acquired(states, file)
    try:
        yield
    finally:
        # Before it is let go: afterwards the file could be another run's already.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            states.path.rmdir()


def _acquired(states: StateFolder, file: Path) -> FileLock:
    """Take the lock on a folder, which is made.

    Raises:
        OutputError: another run has it, or the folder cannot be made.
    """
    lock = FileLock(file, timeout=PATIENCE)
    for _ in range(TRIES):
        states.make()
        try:
            lock.acquire()
        except FileNotFoundError:
            # The run that was waited for has ended, and its folder with it.
            continue
        except Timeout:
            break
        return lock
    raise OutputError(
        f"Another run works with the folder {states.path}.", "Wait for its end, or write elsewhere with -o."
    )
