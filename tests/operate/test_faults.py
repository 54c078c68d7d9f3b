"""Runs under faults, in short; `benchmarks/faults_runs.py` does the same at length."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from bad_images import image_folder
from killed_runs import len_of
from shared_comparison import make_runs
from small_jobs import make_job, run
from two_stages import make_network

import surgeon
from surgeon.checkpoint import read
from surgeon.errors import CheckpointError, OutputError
from surgeon.operate.compare import COMPARISON, compare
from surgeon.operate.comparison_run import Hooks
from surgeon.progress import no_progress

SHORT = Path(__file__).with_name("short_faults.py")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the short program has found, by its parts."""
    folder = tmp_path_factory.mktemp("faults")
    done = subprocess.run([sys.executable, str(SHORT), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    return found | {"stderr": done.stderr}


def test_what_the_broken_runs_print_does_not_bury_what_was_found(printed: dict[str, str]) -> None:
    assert printed["stderr"] == ""


def test_files_are_on_the_disk_before_they_have_their_names(printed: dict[str, str]) -> None:
    # A state after each of the updates, the weights, the best ones, the record and the card.
    assert int(printed["in order"]) > 4


def test_killed_runs_leave_whole_outputs_and_come_to_the_same_end(printed: dict[str, str]) -> None:
    kills, by_clock, ends = map(int, printed["kills"].split())
    assert kills == 6
    assert by_clock >= 1
    assert ends >= 1


def test_a_disk_that_is_full_is_told_and_everything_earlier_stays(printed: dict[str, str]) -> None:
    assert printed["result.safetensors"].endswith("result.safetensors cannot be written: File too large.")
    assert printed["result.json"].endswith("result.json cannot be written: No space left on device.")


def test_reads_that_fail_are_told(printed: dict[str, str]) -> None:
    assert printed["read"].endswith("two.safetensors cannot be read: Input/output error.")
    # A state gives way to the one before it.
    assert printed["state"] == "went on"


def test_of_two_runs_with_one_output_one_wins(printed: dict[str, str]) -> None:
    assert printed["twins"] == "(0, 2)"


@pytest.mark.parametrize("left", [1, 2])
def test_a_process_that_has_lost_the_other_ends_soon_and_one_or_two_resume_the_run(printed, left: int) -> None:
    killed, seconds = printed[f"rank, {left} left"].split()
    assert killed == "True"
    assert float(seconds) < 60


def test_a_signal_is_one_line_and_the_run_goes_on(printed: dict[str, str]) -> None:
    assert {name for name in printed if name.startswith("signal")} == {"signal 2", "signal 15"}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("convert --full", "result.pt2 cannot be written: File too large."),
        ("report", "figures/stages.svg cannot be written: File too large."),
        ("plan", "15"),
    ],
)
def test_commands_that_write_without_a_run_leave_whole_outputs_or_none(
    printed: dict[str, str], name: str, other: str
) -> None:
    assert printed[f"{name}, kills"] == "1 1"
    assert printed[f"{name}, other"] == other


def test_a_checkpoint_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "two.safetensors"
    surgeon.save(path, make_network())
    hashed = read.__globals__["_sha256"]

    def replaced(given: Path) -> str:
        found: str = hashed(given)
        surgeon.save(path, make_network(), metadata={"other": "file"}, overwrite=True)
        return found

    with monkeypatch.context() as patch:
        patch.setitem(read.__globals__, "_sha256", replaced)
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            read(path)
    assert read(path).metadata["other"] == "file"


def test_a_run_that_keeps_no_states_is_held_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surgeon.save(tmp_path / "two.safetensors", make_network())
    image_folder(tmp_path / "images")
    monkeypatch.setattr("surgeon.operate.claim.PATIENCE", 0.05)
    values = {"init": "checkpoint", "method": "reinit", "options": {"criterion": "l2"}, "epochs": 0}
    job = make_job(tmp_path / "two.safetensors", output=tmp_path / "out.safetensors", **values)

    def again(stage: object) -> None:
        run(job)

    with pytest.raises(OutputError, match="Another run works with"):
        run(job, on_stage=again)
    assert not (tmp_path / "out.state").exists()


def test_what_a_killed_comparison_has_left_of_its_record_goes_with_the_next(tmp_path: Path) -> None:
    compared = compared_runs(tmp_path)
    half = tmp_path / "out" / f".surgeon-{sha256(COMPARISON.encode()).hexdigest()[:8]}-0123456789abcdef.tmp"
    half.parent.mkdir()
    half.write_text("{")
    compared()
    assert not half.exists()
    assert (tmp_path / "out" / COMPARISON).exists()
    # Killed when a run was over, before its claim was removed.
    (run,) = tmp_path.glob("out/control-*")
    (run / "claim").touch()
    compared()
    assert not (run / "claim").exists()
    # Killed as it let go of its outputs, before or after it was taken down that it is over.
    for taken_down in (True, False):
        (run / "result-best.state").mkdir()
        (run / "result-best.state" / "lock").touch()
        if not taken_down:
            (run / "run.json").unlink()
        compared()
        assert not (run / "result-best.state").exists()


def test_a_record_whose_half_was_taken_away_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, taken = os.replace, []

    def take_away(source: Path, target: Path) -> None:
        if Path(target).name == COMPARISON and not taken:
            taken.append(source)
            Path(source).unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", take_away)
    compared_runs(tmp_path)()
    assert taken
    assert (tmp_path / "out" / COMPARISON).exists()


def compared_runs(folder: Path) -> Callable[[], object]:
    """Return what compares a control with one method, which both have only one epoch."""
    runs = [
        dataclasses.replace(one, job=dataclasses.replace(one.job, epochs=1, save_every=None))
        for one in make_runs(folder, 1, reinit={"criterion": "l2", "ratio": "0.3"})
    ]
    return lambda: compare(runs, folder / "out", Hooks(no_progress, len_of, len_of, len_of, len_of))
