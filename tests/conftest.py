"""Puts `tests` on the import path, so that every test can use `networks`."""

import os

# The tests run in two processes; more threads than cores would wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
