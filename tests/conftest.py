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


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """Spare many short runs the look at all imported objects that ends each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
