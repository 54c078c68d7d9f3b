"""Runs under faults: killed, out of disk, unreadable inputs, lost processes, two at once, and signals; counts of each.

Every run is a process of its own on a tiny network, forked from one that has everything imported. After every fault,
what stands at an output's name has to be whole and bitwise the expected file but for the times; the same command has to
end like a run that was left alone, with nothing left over.

    python benchmarks/faults_runs.py [--only kills,disk,reads,processes,twins,signals,streams,written] …

`written` are the commands that write without a run: `convert`, `report` and the plan of a dry run.

It exits with 1 and says where, if one of these demands fails.
"""

import argparse
import contextlib
import gc
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Imported once for all runs, which would each take seconds for it.
import sklearn.datasets
import sklearn.model_selection
import timm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "operate"))
import faulty_runs as runs
import file_calls as calls
import signalled_runs as signalled
import written_files as written

from surgeon.operate import job_inputs

IMPORTED = (sklearn.datasets, sklearn.model_selection, timm)
COMMANDS = ("apply", "finetune", "compare")
KILLED = (*COMMANDS, "replaced", "unlocked")
"""What is killed: also what replaces the outputs of an earlier run, and what keeps no states."""

PARTS = ("kills", "disk", "reads", "processes", "twins", "signals", "streams", "written")
SMALL_DISK = 2**20
"""Bytes."""

ROOM = (8_192, 32_768, 65_536, 98_304, 131_072, 196_608)
"""Bytes that are left of it for a run that needs more."""
PORT = 29700
WRITING = 24
"""Last moments of a run, in which its outputs get their names; each has a kill of its own."""

WRITTEN_KILLS, WRITTEN_SIGNALS = 20, 12
"""Of each of the commands that write without a run."""

APART = (0.0, 0.3, 0.6, 0.9)
"""Starts of the second of two, as shares of the time that one takes."""


def kills(folder: Path, names: Sequence[str], count: int, seed: int) -> None:
    """Kill the commands so many times each, shared by their cases."""
    for name in names:
        group, stages, clocked, ends, start = _cases(folder)[name], Counter[str](), 0, 0, time.perf_counter()
        writing = 0
        for number, case in enumerate(group):
            runs.measured(case)
            share = count * (number + 1) // len(group) - count * number // len(group)
            by_clock, ended = runs.kill(case, share, seed + number, stages)
            clocked, ends = clocked + by_clock, ends + ended
            if name not in COMMANDS:
                writing += runs.kill_while_writing(case, WRITING)
        total = sum(stages.values()) + writing
        print(
            f"kills: {name}: {total} SIGKILLs ({clocked} by the clock), {ends} runs resumed to their end, all bitwise "
            f"as left alone, no output half, nothing left over ({time.perf_counter() - start:.0f} s)"
        )
        where = Counter[str]()
        for stage, number in stages.items():
            where[stage.partition(":")[0]] += number
        if writing:
            where["the last moments"] = writing
        print("       in " + ", ".join(f"{stage} {number}" for stage, number in where.most_common()), flush=True)


def disk(folder: Path) -> None:
    """Let the disk be full at every file that a run writes, in three ways, and in earnest on a small one."""
    for name in (*COMMANDS, "replaced"):
        refused = tried = 0
        for case in _cases(folder)[name]:
            runs.measured(case)
            numbers = runs.telling(runs.writes(case))
            for way in ("limit", "fsync", "replace"):
                # A comparison's runs are jobs like those of the other commands.
                for number in numbers if name != "compare" else numbers[:: 1 if way == "limit" else 4]:
                    tried += 1
                    refused += bool(runs.fill(case, way, number))
        print(
            f"disk: {name}: full at {tried} writes, {refused} refusals of one sentence, others went on without it; "
            "earlier outputs kept or replaced whole, all resumed to the expected end",
            flush=True,
        )
    for name in (*COMMANDS, "replaced", "unlocked"):
        named = refused = went_on = 0
        for case in _cases(folder)[name][:1]:
            runs.measured(case)
            named += calls.in_order(case)
            for way in calls.WAYS:
                for number in itertools.count(1):
                    ended = calls.fail_call(case, way, number)
                    if ended is None:
                        break
                    refused, went_on = refused + ended, went_on + (not ended)
        print(
            f"disk: {name}: {named} files synced before and their folders after they had their names; "
            f"{refused + went_on} times a folder or a lock could not be made, or a file not be removed: {refused} "
            f"refusals of one sentence, {went_on} times the run went on, all ended as expected",
            flush=True,
        )
    with _small_disk(folder) as place:
        if place is None:
            print("disk: no small disk may be mounted here, so limits on the size of files stand for one")
            return
        case = runs.cases(folder, home=place)["apply"][0]
        case.folder.mkdir()
        runs.measured(case)
        filler = place / "filler"
        refusals = []
        for room in ROOM:
            filler.write_bytes(b"\1" * (SMALL_DISK - room))
            code = runs.code_of(runs.in_child(case, runs.Moments()))
            refusals.append(code == runs.REFUSED and "No space left" in runs.said(case))
            runs.check_whole(case)
            filler.unlink()
            assert code in (runs.DONE, runs.REFUSED), runs.said(case)
            if code == runs.REFUSED:
                assert runs.code_of(runs.in_child(case, runs.Moments())) == runs.DONE, runs.said(case)
            runs.check_end(case)
            runs.emptied(case.folder)
        print(
            f"disk: a tmpfs of 1 MiB: {sum(refusals)} of {len(refusals)} runs found it full, all resumed",
            flush=True,
        )


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    place = folder / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)


def reads(folder: Path) -> None:
    """Let reads fail with EIO, at the beginning and half-way."""
    found = Counter[bool]()
    partner = _cases(folder)["apply"][1]
    runs.measured(partner)
    for name in ("two.safetensors", "other.safetensors"):
        for after in (0, 4, 700):
            words = runs.fail_read(partner, name, after)
            assert "Input/output error" in words, words
            found[bool(words)] += 1
    case = _cases(folder)["finetune"][0]
    runs.measured(case)
    for name in ("state-00000003.safetensors", "outputs", "state-00000002.safetensors"):
        for after in (0, 100):
            # The other state is taken in place of one that cannot be read.
            found[bool(runs.fail_read(case, name, after, at=case.moments // 3))] += 1
    pictured = written.tuned_with_images(folder)
    pictured.folder.mkdir()
    runs.measured(pictured)
    for name in ("0.png", "3.png"):
        for after in (0, 20):
            words = runs.fail_read(pictured, name, after)
            assert "Input/output error" in words, words
            assert name in words, words
            found[True] += 1
    comparison = _cases(folder)["compare"][0]
    runs.measured(comparison)
    for name in ("run.json", "result.json"):
        found[bool(runs.fail_read(comparison, name, 30, at=2 * comparison.moments // 3))] += 1
    print(
        f"reads: {found.total()} failed with EIO: {found[True]} refusals of one sentence, {found[False]} times the "
        "run went on without that file, all ended as expected",
        flush=True,
    )


def processes(folder: Path) -> None:
    """Kill processes that read images, and one of two that train together."""
    case = _cases(folder)["workers"][0]
    runs.measured(case)
    lost = sum(runs.lose_worker(case, 2 + number * case.moments // 12) for number in range(12))
    print(f"processes: 12 moments at which what reads images was killed: {lost} refusals of one sentence, all resumed")
    case = _cases(folder)["ranks"][0]
    runs.measured(case, lambda moments: runs.ranks(case, [moments, runs.Moments()], PORT - 1))
    ended, resumed = [], Counter[int]()
    for victim, moments in ((0, (3, 20, 50, 80, 120, 160, 200, 230)), (1, (3, 6, 9, 12, 15, 18, 21, 23))):
        for number, at in enumerate(moments):
            killed, seconds, left = runs.lose_rank(case, victim, at, PORT + 10 * victim + number, 1 + number % 2)
            if killed:
                ended.append(seconds)
                resumed[left] += 1
    print(
        f"processes: one of two was killed {len(ended)} times: the other ended within {max(ended):.1f} s with one "
        f"sentence; two resumed the run {resumed[2]} times, to bitwise the end of two left alone, and one {resumed[1]} "
        f"times, to the same but for {runs.CLOSE:g}",
        flush=True,
    )


def twins(folder: Path) -> None:
    """Start runs twice at once."""
    for name in ("apply", "finetune", "replaced", "unlocked"):
        ended = Counter[tuple[int, ...]]()
        for case in _cases(folder)[name]:
            runs.measured(case)
            for _ in range(5):
                ended[tuple(sorted(runs.twins(case)))] += 1
        both, one = ended[runs.DONE, runs.DONE], ended[runs.DONE, runs.REFUSED]
        assert both + one == ended.total(), ended
        assert name == "replaced" or not both, ended
        print(f"twins: {name}: {one} times one won and the other was refused, {both} times the second did it again")


def signals(folder: Path, seed: int, count: int = 10) -> None:
    """Interrupt and terminate command lines, at moments from the first to the last."""
    home = folder / "signals"
    home.mkdir()
    signalled.prepared(home)
    choice = random.Random(seed)
    for name in signalled.COMMANDS:
        alone, stages = signalled.left_alone(home, name), Counter[str]()
        for number in range(count):
            sent = (signal.SIGINT, signal.SIGTERM)[number % 2]
            share = alone.moments / count
            at = min(alone.moments, 1 + int(share * number + choice.random() * share))
            stages[signalled.stopped(home, name, alone, sent, at)] += 1
        where = ", ".join(f"{stage} {number}" for stage, number in stages.most_common())
        print(
            f"signals: {name}: {count} SIGINT or SIGTERM ({where}), one line each, outputs whole or none, all gone on "
            "to the expected end",
            flush=True,
        )


def streams(folder: Path) -> None:
    """Let there be no room for what a command prints, and for the events of its run."""
    home = folder / "streams"
    home.mkdir()
    signalled.prepared(home)
    with _small_disk(home) as place:
        for name in ("apply", "finetune"):
            alone, tried = signalled.left_alone(home, name), ["out", "err"]
            for stream in tried[:]:
                signalled.with_full(home, name, alone, stream)
            if place is not None:
                (place / "filler").write_bytes(b"\1" * SMALL_DISK)
                signalled.with_full(home, name, alone, "events", ["--tensorboard", str(place / "events")])
                tried.append("events")
            print(f"streams: {name}: full for {', '.join(tried)}, no traceback, all outputs as expected", flush=True)


def written_files(folder: Path, seed: int) -> None:
    """Let the commands that write without a run have all of these faults."""
    home = folder / "written"
    home.mkdir()
    written.prepared()
    written.with_record(folder)
    signalled.prepared(home)
    gc.collect()
    gc.freeze()
    sources = {path: path.read_bytes() for path in (folder / written.INPUT, folder / written.RECORD)}
    choice = random.Random(seed)
    for name, group in written.cases(folder).items():
        start = time.perf_counter()
        kills, ends, clocked, full, told, ended = Counter[str](), 0, 0, 0, 0, Counter[tuple[int, ...]]()
        for number, case in enumerate(group):
            case.folder.mkdir()
            runs.measured(case)
            by_clock, done = runs.kill(case, WRITTEN_KILLS // len(group), seed + number, kills)
            clocked, ends = clocked + by_clock, ends + done
            numbers = runs.telling(runs.writes(case))
            for way in ("limit", "fsync", "replace"):
                for write in numbers if case.previous is None else numbers[-1:]:
                    assert runs.fill(case, way, write), f"{name}: full at a write, and nothing is told"
                    full += 1
            for after in (0, 4, 100):
                words = runs.fail_read(case, written.source(case), after)
                assert "Input/output error" in words, words
                told += 1
            for share in APART:
                codes = runs.twins(case, share * case.seconds)
                assert case.previous is not None or sorted(codes) == [runs.DONE, runs.REFUSED], (name, codes)
                ended[tuple(sorted(codes))] += 1
        both, one = ended[runs.DONE, runs.DONE], ended[runs.DONE, runs.REFUSED]
        alone = signalled.left_alone(home, name)
        stopped = 0
        for number in range(WRITTEN_SIGNALS):
            sent = (signal.SIGINT, signal.SIGTERM)[number // 2 % 2]
            at = None if number % 2 else choice.randint(1, alone.moments)
            stopped += bool(signalled.stopped(home, name, alone, sent, at, choice.uniform(0, group[0].seconds)))
        assert all(path.read_bytes() == content for path, content in sources.items()), f"{name}: its input has changed"
        print(
            f"written: {name}: {sum(kills.values())} SIGKILLs ({clocked} by the clock), {ends} done again to their "
            f"end; full at {full} writes and {told} reads failed, one sentence each; two at once: {one} times one won "
            f"and the other was refused, {both} times the second replaced it; {stopped} SIGINT or SIGTERM, one line "
            "each; outputs whole and bitwise the expected ones or none, input untouched, nothing left over "
            f"({time.perf_counter() - start:.0f} s)",
            flush=True,
        )


def _cases(folder: Path) -> dict[str, list[runs.Case]]:
    found = runs.cases(folder)
    for group in found.values():
        for case in group:
            case.folder.mkdir(exist_ok=True)
            runs.emptied(case.folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--commands", default=",".join(KILLED), help="that are killed, with commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        "kills": lambda folder: kills(folder, args.commands.split(","), args.kills, args.seed),
        "disk": disk,
        "reads": reads,
        "processes": processes,
        "twins": twins,
        "signals": lambda folder: signals(folder, args.seed),
        "streams": streams,
        # The last one: what it imports and sets stays for all that follow.
        "written": lambda folder: written_files(folder, args.seed),
    }
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        runs.prepared(folder)
        # What is imported would be looked through in every run.
        gc.collect()
        gc.freeze()
        traced = job_inputs.trace_for_images
        for name in args.only.split(","):
            # Some parts have another network.
            job_inputs.trace_for_images = traced
            try:
                parts[name](folder)
            except AssertionError as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
    # What is frozen could not be taken down, and its library would tell of every piece.
    gc.unfreeze()
    print("All demands are met." if not failed else f"{failed} parts failed.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
