"""The demands of `faulty_runs`, `file_calls` and `signalled_runs` fail where a promise is broken."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faulty_runs as runs
import file_calls as calls
import pytest
import signalled_runs as signalled
import torch

import surgeon


def case_of(folder: Path, start: Callable[[], None], **others: Any) -> runs.Case:
    """Return a run of a plain function that writes `result.json`, which ends as an empty mapping."""
    (folder / "run").mkdir()
    expected = {"result.json": {}}
    return runs.Case("plain", folder / "run", lambda track, say: start(), expected, 4, 0.01, **others)


def test_a_process_that_hangs_is_killed_and_told() -> None:
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"had not ended after 0\.2 s"):
        runs.ends_of([child.pid for child in children], 0.2)
    assert time.monotonic() - start < 20
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)
        # It was waited for already.
        child.returncode = 0


def test_a_name_that_stands_for_nothing_for_a_moment_is_found_by_kills(tmp_path: Path) -> None:
    path = tmp_path / "run" / "result.json"

    def start() -> None:
        path.with_suffix(".tmp").write_text("{}")
        path.rename(path.with_suffix(".old"))
        os.replace(path.with_suffix(".tmp"), path)
        path.with_suffix(".old").unlink()

    with pytest.raises(AssertionError, match=r"result\.json is gone"):
        runs.kill(case_of(tmp_path, start, previous=b"of an earlier run"), 40, 0, Counter())


@pytest.mark.parametrize("way", ["whole", "unsynced file", "unsynced folder", "synced too late"])
def test_the_order_of_syncs_and_names_is_demanded(tmp_path: Path, way: str) -> None:
    path, temporary = tmp_path / "run" / "result.json", tmp_path / "run" / "half.tmp"

    def start() -> None:
        with temporary.open("w") as file:
            file.write("{}")
            file.flush()
            if way not in ("unsynced file", "synced too late"):
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if way == "synced too late":
                os.fsync(file.fileno())
        if way != "unsynced folder":
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    case = case_of(tmp_path, start)
    if way == "whole":
        assert calls.in_order(case) == 1
        return
    words = "the name of result.json is not on" if way == "unsynced folder" else "has its name before it is on"
    with pytest.raises(AssertionError, match=words):
        calls.in_order(case)


@pytest.mark.parametrize("overwrite", [False, True])
def test_checkpoints_are_on_the_disk_before_they_have_their_names(tmp_path: Path, overwrite: bool) -> None:
    model = torch.nn.Linear(2, 2)
    surgeon.save(tmp_path / ("a.safetensors" if overwrite else "b.safetensors"), model)
    with calls.recorded() as made:
        surgeon.save(tmp_path / "a.safetensors", model, overwrite=overwrite)
    assert calls.check_order(made) == 1


def test_a_call_that_fails_has_to_be_told_in_a_sentence(tmp_path: Path) -> None:
    def start() -> None:
        (tmp_path / "run" / "more").mkdir()
        (tmp_path / "run" / "more").rmdir()
        (tmp_path / "run" / "result.json").write_text("{}")

    case = case_of(tmp_path, start)
    assert calls.fail_call(case, "a folder cannot be made", 2) is None
    with pytest.raises(AssertionError, match="No space left"):
        calls.fail_call(case, "a folder cannot be made", 1)


@pytest.mark.parametrize("left", ["nothing", "other bytes", "another file"])
def test_what_a_command_leaves_after_a_signal_is_held_against_what_it_leaves_alone(tmp_path: Path, left: str) -> None:
    home = tmp_path / "plain"
    home.mkdir()
    for folder in (tmp_path, home):
        for name in signalled.GIVEN:
            (folder / name).write_text("")
    if left != "nothing":
        (home / "a.json").write_text('{"top1": 1}' if left == "other bytes" else '{"top1": 2}')
    if left == "another file":
        (home / "b.json").write_text("{}")
    with pytest.raises(AssertionError):
        signalled._check_left(tmp_path, "plain", signalled.Alone(1, {"a.json": {"top1": 2}}, []), "here")
    for path in home.glob("?.json"):
        path.unlink()
    (home / "a.json").write_text('{"top1": 2}')
    signalled._check_left(tmp_path, "plain", signalled.Alone(1, {"a.json": {"top1": 2}}, []), "here")


@pytest.mark.parametrize(("weight", "figure", "close"), [(1e-15, 1e-7, True), (1e-12, 0.0, False), (0.0, 1e-4, False)])
def test_an_end_of_other_processes_is_close(tmp_path: Path, weight: float, figure: float, close: bool) -> None:
    case = case_of(tmp_path, lambda: None)

    def write(change: float, loss: float) -> None:
        state = {"w": torch.full((2,), 1 + change, dtype=torch.float64)}
        runs.safetensors.torch.save_file(state, case.folder / "a.safetensors", {"format": "pt"})
        (case.folder / "a.json").write_text(f'{{"loss": {loss}, "device": "{loss}"}}')

    write(0, 0.5)
    case.expected = runs.outcome(case.folder)
    write(weight, 0.5 + figure)
    if close:
        runs.check_close(case)
        return
    with pytest.raises(AssertionError):
        runs.check_close(case)
