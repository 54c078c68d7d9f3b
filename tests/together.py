"""Run a function of the tests in several processes that know each other, as a launcher would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parent
SECONDS = 120
"""After so long the processes count as stuck."""


def together(work: Callable[[], Any], folder: Path, processes: int = 2, **environment: str) -> list[Any]:
    """Return what a function without arguments returns in each of several gloo processes.

    Args:
        work: a function at the top of a module in a folder of `tests`; it returns what `torch.load` trusts.
        folder: for the results.
        processes: how many.
        environment: variables that a launcher would set beside.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import gc, sys, torch; from accelerate import PartialState; state = PartialState(cpu=True);"
        f"sys.path.insert(0, {str(Path(sys.modules[work.__module__].__file__ or '').parent)!r});"
        f"from {work.__module__} import {work.__name__} as work;"
        # What is imported would be looked through at the end of every training.
        "gc.collect(); gc.freeze();"
        f"torch.save(work(), {str(folder)!r} + f'/{{state.process_index}}.pt'); state.destroy_process_group()"
    )
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    common = {"PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} for rank in range(processes)]
    same = {**os.environ, **common, **environment}
    started = [subprocess.Popen([sys.executable, "-c", code], env={**same, **rank}) for rank in ranks]
    try:
        ended = [process.wait(SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    assert ended == [0] * processes
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
