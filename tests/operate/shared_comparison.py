"""Comparisons that several processes do together in one folder, one of them killed; for test_compare.

A program of its own, which has everything imported before it starts processes: `python shared_comparison.py FOLDER`.
"""

import dataclasses
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from killed_runs import KILLED, len_of, make_job, without_times
from two_stages import EXAMPLE, Two

import surgeon
from surgeon.operate import compare as comparing
from surgeon.operate import job_inputs
from surgeon.operate.compare import COMPARISON, compare
from surgeon.operate.comparison_run import CONTROL, Hooks, Run
from surgeon.progress import no_progress

METHODS: dict[str, dict[str, Any]] = {
    "reinit": {"criterion": "l2", "ratio": "0.3"},
    "by-chance": {"method": "reinit", "criterion": "random"},
}


def make_runs(folder: Path, seeds: int = 2, **methods: dict[str, Any]) -> list[Run]:
    """Return the runs of a comparison, on a network that is written to the folder if it is not there."""
    if not (folder / "two.safetensors").exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            surgeon.save(folder / "two.safetensors", Two().eval())
    runs = []
    for seed in range(seeds):
        job = dataclasses.replace(make_job(folder, "sofm", {}), method=None, recalibrate=False, seed=seed)
        job = dataclasses.replace(
            job, tuning=dataclasses.replace(job.tuning, epochs=2, seed=seed), epochs=2, batch_size=12, save_every=None
        )
        runs.append(Run(CONTROL, job))
        for name, options in (methods or METHODS).items():
            own = {"method": name, **options}
            runs.append(Run(name, dataclasses.replace(job, method=own.pop("method"), options=own, recalibrate=True)))
    return runs


def in_child(folder: Path, log: str, *, dies: bool = False) -> int:
    """Do a comparison in a process of its own, which takes down its runs, and dies in the first of them if it shall."""

    def on_run(run: Run) -> None:
        with (folder / log).open("a") as file:
            file.write(f"{run.name} {run.job.seed}\n")

    def on_epoch(record: Any) -> None:
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            compare(make_runs(folder), folder / "shared", Hooks(no_progress, on_run, len_of, on_epoch, len_of))
            code = 0
        finally:
            os._exit(code)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    comparing.WAIT = 0.05
    graph = surgeon.trace(Two().eval(), EXAMPLE)
    job_inputs.trace_for_images = lambda model, images: graph
    make_runs(folder)
    # What is imported would be looked through in every run.
    gc.collect()
    gc.freeze()
    killed = in_child(folder, "killed", dies=True)
    assert code_of(killed) == KILLED
    together = [in_child(folder, "together") for _ in range(2)]
    assert [code_of(child) for child in together] == [0, 0]
    print(json.dumps(sorted((folder / "together").read_text().splitlines())))
    shared = without_times(json.loads((folder / "shared" / COMPARISON).read_text()))
    alone = compare(make_runs(folder), folder / "alone", Hooks(no_progress, len_of, len_of, len_of, len_of))
    same = [run["stages"] == other["stages"] for run, other in zip(
        shared["runs"], without_times(alone.to_dict())["runs"], strict=True
    )]  # fmt: skip
    assert all(same), same


if __name__ == "__main__":
    main(Path(sys.argv[1]))
