"""Puts `tests` on the import path, so that every test can use `networks`."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest

# The tests run in two processes; more threads than cores would wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _thawed() -> Iterator[None]:
    """Let the interpreter find everything at its end, or extensions report what is left as leaks."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Spare the runs of a module the look at all imported objects that ends each of them.

    What is there when a module of tests begins is not looked through any more; what its tests leave is, as ever.
    """
    gc.collect()
    gc.freeze()
