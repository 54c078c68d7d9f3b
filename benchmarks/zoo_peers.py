"""Compare with Torch-Pruning on the networks of the sweep."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_catalogue import Entry
from zoo_processes import Task, run_all
from zoo_results import Results

WORKER = Path(__file__).resolve().parent / "zoo_peers_worker.py"
TIMEOUT = 600.0
"""Seconds after which a worker counts as lost; it gives up by itself after 60 seconds of processor time."""
FAILED = {"builds": False, "prunes": False, "runs": False}


def compare(entries: Sequence[Entry], surgeon: Mapping[str, dict[str, Any]], results: Results, workers: int) -> None:
    """Let Torch-Pruning analyse these architectures, and append its results beside surgeon's.

    Args:
        entries: the architectures.
        surgeon: the sweep's results by name; they say which image size a network takes.
        results: where the comparison goes; what is there already is not measured again.
        workers: number of processes.
    """
    known = results.rows()
    asked = [entry for entry in entries if entry.name not in known and entry.name in surgeon]
    tasks = [Task(e.name, {"architecture": e.name, "size": surgeon[e.name].get("size")}) for e in asked]
    for task, answer, problem in run_all(WORKER, tasks, workers, TIMEOUT):
        ours = surgeon[task.name]
        row = (answer if answer is not None else FAILED | {"message": problem}) | {
            "name": task.name,
            "family": ours["family"],
            "traces": "groups" in ours,
            "proves": ours["status"] == "proven",
        }
        results.append(row | ({"surgeon_seconds": ours["seconds"]} if "seconds" in ours else {}))
        sys.stdout.write(f"{task.name}: {row['builds']} {row['prunes']} {row['runs']} {row['message']}\n")
        sys.stdout.flush()
