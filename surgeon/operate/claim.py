"""What a job writes to is its own while it runs: no second run works there, and no killed one's debris stays."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from surgeon.checkpoint.write import remove_leftovers
from surgeon.errors import OutputError
from surgeon.operate.job import Job, claim_of
from surgeon.operate.job_files import outputs
from surgeon.operate.locks import locked
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
        OutputError: another run works there, or the folder of states cannot be made or locked.
    """
    with contextlib.ExitStack() as stack:
        if is_main():
            # What is no path at all is refused where it is looked at.
            files = [path for _, path in outputs(job) if path.name and "\0" not in str(path) and path.parent.is_dir()]
            # A name may be another run's result. Everybody takes them in the same order.
            folders = {os.path.realpath(states.path): states for states in map(claim_of, reversed(files))}
            for place in sorted(folders):
                stack.enter_context(_held(folders[place]))
            if job.claim.path.is_dir():
                job.claim.tidy()
            for path in files:
                remove_leftovers(path)
        yield


def sweep(job: Job) -> None:
    """Remove what a run that was stopped as it let go of its outputs has left of their locks.

    Args:
        job: what is done; where another process works at it, that will.
    """
    if is_main() and any(claim_of(path).path.is_dir() for _, path in outputs(job)):
        with contextlib.suppress(OutputError), claimed(job):
            pass


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
        states.leave()


def _acquired(states: StateFolder, file: Path) -> FileLock:
    """Take the lock on a folder, which is made.

    Raises:
        OutputError: another run has it, or the folder cannot be made or locked.
    """
    for _ in range(TRIES):
        states.make()
        try:
            lock = locked(file, PATIENCE)
        except FileNotFoundError:
            # The run that was waited for has ended, and its folder with it.
            continue
        except OutputError:
            states.leave()
            raise
        if lock is None:
            break
        return lock
    raise OutputError(
        f"Another run works with the folder {states.path}.", "Wait for its end, or write elsewhere with -o."
    )
