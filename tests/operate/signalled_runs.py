"""Command lines that are interrupted or terminated at any moment, each in a process of its own."""

import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import Any

import torch
import written_files
from faulty_runs import Moments, code_of, content, emptied
from safetensors.torch import save_file

import surgeon
from surgeon.cli.live import View
from surgeon.cli.main import main
from surgeon.operate import job_inputs

NETWORK = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 10)
    )
"""
DIGITS = ["--data", "digits", "--input-size", "1,8,8", "--limit", "20", "--batch-size", "10", "--workers", "0"]
TUNED = ["--epochs", "2", "--save-every", "1"]
LEAST = 32
"""Exemplars."""

STAGE = {"name": "original", "top1": 50.0}
RECORD = {"surgeon": "0", "method": "sofm", "stages": [STAGE], "epochs": [], "edits": [], "targets": ["0"]}

COMMANDS: dict[str, list[str]] = {
    "apply": ["apply", "in.safetensors", "--method", "channel-regeneration", "--set", "threshold=2", *DIGITS, *TUNED],
    "finetune": ["finetune", "in.safetensors", *DIGITS, *TUNED],
    "compare": ["compare", "in.safetensors", "--methods", "reinit", "--seeds", "1", *DIGITS, *TUNED],
    "evaluate": ["evaluate", "in.safetensors", *DIGITS],
    "exemplars": [
        "apply", "in.safetensors", "--method", "reinit", "--input-size", "1,8,8", "--exemplars", str(LEAST),
        "--exemplar-steps", "3", "--batch-size", "16", "--workers", "0", *TUNED,
    ],
}  # fmt: skip
WRITTEN: dict[str, list[str]] = {
    "convert --full": ["convert", "in.safetensors", "--full", "--input-size", "1,8,8"],
    "convert --onnx": ["convert", "in.safetensors", "--onnx", "--input-size", "1,8,8"],
    "plan": [
        "apply", "in.safetensors", "--method", "channel-regeneration", "--set", "threshold=2", "--input-size", "1,8,8",
        "--dry-run", "--save-plan", "plan.safetensors",
    ],
    "report": ["report", "record.json", "--figures", "figures"],
}  # fmt: skip
"""Command lines that keep no state: they begin anew. All of them have done what `written_files.prepared` does."""

if not written_files.HAS_ONNX:
    del WRITTEN["convert --onnx"]
START_SECONDS = 60.0
GIVEN = ("network.py", "in.safetensors", "record.json")


GROWING = ("comparison.json",)
FULL = "/dev/full"


@dataclass(frozen=True)
class Alone:
    """A command that was left alone.

    Attributes:
        moments: that it has.
        expected: what it leaves, by the names of the files; see `faulty_runs.content`.
        prints: the figures that it prints where it leaves nothing.
    """

    moments: int
    expected: dict[str, Any]
    prints: list[str]


def prepared(folder: Path) -> None:
    """Write the network, its weights, and a record that names neither."""
    (folder / "record.json").write_text(json.dumps(RECORD))
    (folder / "network.py").write_text(NETWORK)
    torch.manual_seed(0)
    model = run_path(str(folder / "network.py"))["build"]().eval()
    save_file(model.state_dict(), folder / "in.safetensors")
    graph = surgeon.trace(model, torch.zeros(2, 1, 8, 8))
    job_inputs.trace_for_images = lambda model, images: graph


def started(
    folder: Path, name: str, moments: Moments, printed: Mapping[str, str] | None = None, more: Sequence[str] = ()
) -> int:
    """Start a command line in a process of its own, and return that.

    Args:
        folder: what `prepared` was given.
        name: of the command.
        moments: that it has.
        printed: where its `out` and `err` go, files in the folder by default.
        more: arguments.
    """
    home = folder / name
    home.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for stream, file in ((1, "out"), (2, "err")):
            path = (printed or {}).get(file, folder / f"{name}.{file}")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, stream)
        for file in GIVEN:
            (home / file).write_bytes((folder / file).read_bytes())
        os.chdir(home)
        _watch(moments)
        if name in WRITTEN:
            written_files.watch(moments)
        sys.argv = ["surgeon", *(COMMANDS | WRITTEN)[name], "--arch", "network.py:build", *more]
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        traceback.print_exception(error)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(moments: Moments) -> None:
    track: Callable[..., Any] = View.track

    def tracked(view: View, batches: Any, *arguments: Any, **options: Any) -> Any:
        return moments.track(track(view, batches, *arguments, **options), *arguments[:1])

    View.track = tracked
    moments.watch_files()


def left_alone(folder: Path, name: str) -> Alone:
    """Do a command once to its end, and return what came of it."""
    moments = Moments()
    code = code_of(started(folder, name, moments))
    assert code == 0, (folder / f"{name}.err").read_text()
    alone = Alone(moments.last[0], _outcome(folder / name), _printed(folder, name))
    assert alone.expected or alone.prints, f"{name} leaves nothing"
    assert "left over" not in alone.expected.values(), alone.expected.keys()
    emptied(folder / name)
    return alone


def _outcome(home: Path) -> dict[str, Any]:
    files = {str(path.relative_to(home)): path for path in sorted(home.rglob("*")) if path.is_file()}
    return {name: content(path) for name, path in files.items() if name not in GIVEN}


def _printed(folder: Path, name: str) -> list[str]:
    """Return the figures in what a command has printed, but for times and speeds."""
    text = re.sub(r"[\d.,]+ ?(s|ms|images/s)\b", "", (folder / f"{name}.out").read_text())
    return re.findall(r"\d+(?:\.\d+)?", text)


def stopped(folder: Path, name: str, alone: Alone, number: int, at: int | None, after: float = 0.0) -> str:
    """Send a signal to a command at a moment, hold what it says against what it should, and let it go on.

    Args:
        folder: what `prepared` was given.
        name: of the command.
        alone: what it does without a signal.
        number: of the signal.
        at: the moment, or None for one by the clock.
        after: seconds from its first moment on, then.

    Returns:
        The stage that it was in; empty where it was done before the clock.
    """
    moments = Moments(at, lambda what: os.kill(os.getpid(), number))
    child = started(folder, name, moments)
    if at is None:
        _send(child, moments, number, after)
    code = code_of(child)
    words = (folder / f"{name}.err").read_text()
    where = f"{name}, {signal.Signals(number).name} at {moments.last}: {code}\n{words}"
    if code == 0 and at is None:
        _check_left(folder, name, alone, where)
        return ""
    assert code in ((130,) if number == signal.SIGINT else (130, 143)), where
    assert "Traceback" not in words, where
    last = [line for line in words.splitlines() if line.startswith(("Interrupted.", "Terminated."))]
    assert last == words.splitlines()[-1:], where
    for file, expected in alone.expected.items():
        path = folder / name / file
        # A comparison's own record grows with every run.
        if path.exists() and path.name not in GROWING:
            assert content(path) == expected, f"{where}\n{file} is not whole"
    code = code_of(started(folder, name, Moments()))
    words = (folder / f"{name}.err").read_text()
    # Everything may have been written already.
    assert code == 0 or (code == 1 and " exists." in words), f"{where}\nand then\n{words}"
    _check_left(folder, name, alone, where)
    return moments.last[1].split(":")[0]


def with_full(folder: Path, name: str, alone: Alone, place: str, more: Sequence[str] = ()) -> int:
    """Let a command print where there is no room, or write further files there, and return how it ended.

    Its outputs are the expected ones: what it has computed for hours is not lost over that.

    Args:
        folder: what `prepared` was given.
        name: of the command.
        alone: what it does where there is room.
        place: what is full: `out`, `err`, or what the arguments name.
        more: arguments.
    """
    code = code_of(started(folder, name, Moments(), {place: FULL} if place in ("out", "err") else None, more))
    words = "" if place == "err" else (folder / f"{name}.err").read_text()
    where = f"{name}, {place} is full: {code}\n{words}"
    # Whoever reads what it prints has to learn that this is not everything.
    assert code in ((0, 1) if place == "err" else (1,) if place == "out" else (0,)), where
    assert "Traceback" not in words, where
    assert place == "err" or "No space left" in words, where
    _check_left(folder, name, alone, where)
    return code


def _send(child: int, moments: Moments, number: int, after: float) -> None:
    started_at = time.perf_counter()
    while not moments.last[0] and time.perf_counter() - started_at < START_SECONDS:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(child, number)


def _check_left(folder: Path, name: str, alone: Alone, where: str) -> None:
    """Hold what a command has left against what it leaves when left alone; the folder is empty then."""
    left = [path.name for path in (folder / name).rglob("*")]
    assert not [one for one in left if one.endswith((".tmp", ".state"))], (where, left)
    found = _outcome(folder / name)
    assert found.keys() == alone.expected.keys(), (where, sorted(found.keys() ^ alone.expected.keys()))
    assert found == alone.expected, f"{where}\nanother outcome"
    # Where files are left, they have the figures.
    assert alone.expected or _printed(folder, name) == alone.prints, f"{where}\nother figures"
    for file in GIVEN:
        assert (folder / name / file).read_bytes() == (folder / file).read_bytes(), (where, file)
    emptied(folder / name)
