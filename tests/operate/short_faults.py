"""A few of the faults of `faulty_runs`; for test_faults.

A program of its own, which has everything imported before it starts its runs: `python short_faults.py FOLDER`.
"""

import gc
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import faulty_runs as runs
import file_calls as calls
import signalled_runs as signalled
import sklearn.datasets
import sklearn.model_selection
import written_files as written

IMPORTED = (sklearn.datasets, sklearn.model_selection)

WRITTEN = ("convert --full", "plan", "report")
"""Commands that write without a run; each has a kill and one more fault."""

SEED = 0
"""With which the one kill is at a moment: one by the clock may come too late on a busy machine."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main(folder: Path) -> None:
    runs.prepared(folder)
    # What is imported would be looked through in every run.
    gc.collect()
    gc.freeze()
    cases = {name: group[0] for name, group in runs.cases(folder).items()}
    for case in cases.values():
        case.folder.mkdir()
    for name in ("finetune", "replaced"):
        runs.measured(cases[name])
    clocked, ends = runs.kill(cases["finetune"], 6, 4, Counter())
    print(f"kills: 6 {clocked} {ends}")
    print(f"in order: {calls.in_order(cases['finetune'])}")
    replaced = cases["replaced"]
    names = runs.writes(replaced)
    # Outputs are opened before it is taken down that they are about to be put in their places.
    for way, name, put in (("limit", "result.safetensors", "outputs"), ("replace", "result.json", "result.json")):
        print(f"{name}: {runs.fill(replaced, way, names.index(put) + 1).splitlines()[0]}")
    finetune = cases["finetune"]
    print(f"read: {runs.fail_read(finetune, 'two.safetensors', 700).splitlines()[0]}")
    # Where a third of the moments are over, the newest of two states is the third.
    third = finetune.moments // 3
    told = runs.fail_read(finetune, "state-00000003.safetensors", 100, at=third)
    print(f"state: {told or 'went on'}")
    print(f"twins: {tuple(sorted(runs.twins(finetune)))}")
    ranks = cases["ranks"]
    runs.measured(ranks, lambda moments: runs.ranks(ranks, [moments, runs.Moments()], free_port()))
    for left in (2, 1):
        killed, seconds, resumed = runs.lose_rank(ranks, 1, 9, free_port(), left)
        assert resumed == left
        print(f"rank, {left} left: {killed} {seconds:.1f}")
    signalled.prepared(folder)
    alone = signalled.left_alone(folder, "finetune")
    for number, at in ((signal.SIGINT, alone.moments // 2), (signal.SIGTERM, alone.moments - 10)):
        print(f"signal {int(number)}: {signalled.stopped(folder, 'finetune', alone, number, at)}")
    written.prepared(with_onnx=False)
    gc.collect()
    gc.freeze()
    for name in WRITTEN:
        write_short(folder, name)
    # What is frozen could not be taken down, and its library would tell of every piece.
    gc.unfreeze()


def write_short(folder: Path, name: str) -> None:
    """Let a command that writes without a run be killed, and be terminated or find the disk full."""
    case = written.cases(folder)[name][0]
    case.folder.mkdir()
    runs.measured(case)
    _, ends = runs.kill(case, 1, SEED, Counter())
    print(f"{name}, kills: 1 {ends}")
    if name != "plan":
        print(f"{name}, other: {runs.fill(case, 'limit', 1).splitlines()[0]}")
        return
    # When the file is open that will take the output's place.
    signalled.stopped(folder, name, signalled.left_alone(folder, name), signal.SIGTERM, case.moments - 12)
    print(f"{name}, other: {int(signal.SIGTERM)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
