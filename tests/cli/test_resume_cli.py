"""The command line of runs that are interrupted and continued."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ARCH, DIGITS, QUICK, call
from filelock import FileLock

from surgeon.checkpoint.safetensors_file import read_header
from surgeon.checkpoint.write import Staged
from surgeon.cli.live import View
from surgeon.operate import claim, write_outputs
from surgeon.operate.states import StateFolder

SOFM = ["--method", "sofm", "--layers", "layer3", "--arch", ARCH, *QUICK, "--epochs", "2"]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Path:
    """A run that somebody stopped when its first epoch was over."""

    def stop(view: View, record: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(View, "epoch", stop)
        assert call(patch, "apply", checkpoint, *SOFM) == 130
    return checkpoint


def names(checkpoint: Path) -> set[str]:
    return {path.name for path in checkpoint.parent.iterdir()} - {"digits-sofm-best.safetensors"}


COMPLETE = {"digits.safetensors", "digits-sofm.safetensors", "digits-sofm.json"}


def test_ctrl_c_saves_a_state_and_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    arguments = [
        "apply", str(checkpoint), "--method", "channel-regeneration", "--arch", ARCH, "--data", "digits",
        "--limit", "24", "--batch-size", "12", "--workers", "1", "--epochs", "9", "--sched", "none",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "surgeon", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # As a terminal does, everything of a command gets the signal.
        process_group=0,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch   1" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "Traceback" not in rest
    state = checkpoint.with_name("digits-channel-regeneration.state")
    assert f"The run's state is kept in {state}. The same command continues it:" in rest
    assert f"surgeon apply {checkpoint} --method channel-regeneration" in rest
    assert "Interrupted" in rest
    assert checkpoint.read_bytes() == DIGITS.read_bytes()
    assert {path.name for path in checkpoint.parent.iterdir()} == {checkpoint.name, state.name}
    assert call(monkeypatch, *arguments) == 0
    said = capsys.readouterr().err
    assert "The run continues at epoch " in said
    assert "epoch   1 " not in said
    assert "epoch   9 " in said
    assert not state.exists()


def test_the_same_command_continues_and_tidies_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    assert names(interrupted) == {"digits.safetensors", "digits-sofm.state"}
    # Where results go, and what shows the way there, makes no other run.
    assert call(monkeypatch, "apply", interrupted, *SOFM, "--save-every", "1", "--workers", "1") == 0
    assert "The run continues at epoch 2 of 2 of layer3" in capsys.readouterr().err
    assert names(interrupted) == COMPLETE


def test_another_run_does_not_continue_but_may_begin_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    for other in (["--weight-decay", "0.02"], ["--hold-out", "0.2"], ["--ratio", "0.25"]):
        assert call(monkeypatch, "apply", interrupted, *SOFM, *other) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "keeps the state of another run, with " in said
        assert f"{other[0].removeprefix('--')} " in said
        assert f"(now {other[1]})" in said
        assert "Begin anew with --restart" in said
    assert names(interrupted) == {"digits.safetensors", "digits-sofm.state"}
    assert call(monkeypatch, "apply", interrupted, *SOFM, "--lr", "0.02", "--restart") == 0
    assert "continues" not in capsys.readouterr().err
    assert names(interrupted) == COMPLETE


def test_a_run_with_other_images_of_the_same_name_does_not_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("surgeon.data.images.ImageTensors.names_sha256", "0" * 64)
        assert call(patch, "apply", interrupted, *SOFM) == 1
    assert "keeps the state of another run" in capsys.readouterr().err
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 0


def test_a_run_that_was_interrupted_goes_on_with_other_rates_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    changed = [*SOFM, "--lr", "0.02", "--clip-grad", "1"]
    assert call(monkeypatch, "apply", interrupted, *changed) == 1
    said = capsys.readouterr().err
    assert "keeps the state of a run with lr 0.01 (now 0.02), clip-grad none (now 1).\nGo on nevertheless" in said
    assert call(monkeypatch, "apply", interrupted, *changed, "--resume-changed") == 0
    assert "The run continues at epoch 2 of 2" in capsys.readouterr().err
    record = json.loads(interrupted.with_name("digits-sofm.json").read_text())
    # Half of a cosine from the new rate.
    assert [row["lr"] for row in record["epochs"]] == pytest.approx([0.01, 0.01])
    assert (record["recipe"]["lr"], "resume-changed" in record["recipe"]) == (0.02, False)
    assert any("with other options than it began with" in note for note in record["notes"])


def test_an_output_of_somebody_else_is_not_replaced_by_a_run_that_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    output = interrupted.with_name("digits-sofm.safetensors")
    output.write_bytes(b"mine")
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 1
    assert "exists" in capsys.readouterr().err
    assert output.read_bytes() == b"mine"
    assert call(monkeypatch, "apply", interrupted, *SOFM, "--overwrite") == 0
    assert "continues" in capsys.readouterr().err


def between_two_files() -> Any:
    """Return a `Staged.put` that somebody stops when it is the record's turn, after the result's."""
    put = Staged.put

    def stopped(one: Staged, overwrite: bool) -> None:
        if one.path.suffix == ".json":
            os.kill(os.getpid(), signal.SIGINT)
        put(one, overwrite)

    return stopped


def test_outputs_that_an_interrupted_run_had_begun_are_replaced(
    monkeypatch: pytest.MonkeyPatch, interrupted: Path
) -> None:
    record = interrupted.with_name("digits-sofm.json")
    with monkeypatch.context() as patch:
        patch.setattr(Staged, "put", between_two_files())
        assert call(patch, "apply", interrupted, *SOFM) == 130
    assert interrupted.with_name("digits-sofm.safetensors").exists()
    assert not record.exists()
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 0
    assert names(interrupted) == COMPLETE


def test_a_run_without_states_completes_its_outputs_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    arguments = ["apply", checkpoint, *SOFM, "--epochs", "0"]
    result, record = checkpoint.with_name("digits-sofm.safetensors"), checkpoint.with_name("digits-sofm.json")
    for overwrite in ([], ["--overwrite"]):
        before = [path.read_bytes() if path.exists() else None for path in (result, record)]
        with monkeypatch.context() as patch:
            patch.setattr(Staged, "put", between_two_files())
            assert call(patch, *arguments, *overwrite) == 130
        # An earlier result is replaced by then, and its record is not.
        assert capsys.readouterr().err.endswith("The input is untouched, and every output is whole or as it was.\n")
        assert result.read_bytes() != before[0]
        assert (record.read_bytes() if record.exists() else None) == before[1]
        assert call(monkeypatch, *arguments, *overwrite) == 0
        assert names(checkpoint) == COMPLETE
        core = json.loads(read_header(result).metadata["surgeon"])
        assert core.items() <= json.loads(record.read_text()).items()
    # Whoever has both may not replace them.
    assert call(monkeypatch, *arguments) == 1


def test_fine_tuning_alone_continues_too(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    arguments = ["finetune", checkpoint, "--arch", ARCH, *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(write_outputs, "write_into", lambda *arguments: os.kill(os.getpid(), signal.SIGINT))
        assert call(patch, *arguments) == 130
    assert checkpoint.with_name("digits-finetuned.state").is_dir()
    assert call(monkeypatch, *arguments) == 0
    assert not checkpoint.with_name("digits-finetuned.state").exists()


def test_a_run_without_fine_tuning_keeps_no_state(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    assert call(monkeypatch, "apply", checkpoint, *SOFM, "--epochs", "0", "--save-every", "2", "--restart") == 0
    assert names(checkpoint) == COMPLETE


def test_two_runs_do_not_work_with_one_folder_of_states(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    state = interrupted.with_name("digits-sofm.state")
    holder = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holder, str(state / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    kept = {path.name for path in state.iterdir()}
    monkeypatch.setattr("surgeon.operate.claim.PATIENCE", 0.1)
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 1
    assert f"Another run works with the folder {state}." in capsys.readouterr().err
    assert {path.name for path in state.iterdir()} == kept
    # The lock of a run that was killed holds nobody up.
    other.kill()
    other.communicate()
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 0
    assert "continues" in capsys.readouterr().err
    assert names(interrupted) == COMPLETE


def test_a_run_that_waits_goes_on_where_the_other_takes_its_folder_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    states = StateFolder(tmp_path / "out.state")
    acquire, tried = FileLock.acquire, []

    def ends_meanwhile(lock: FileLock) -> Any:
        tried.append(states.path.is_dir())
        if len(tried) == 1:
            states.path.rmdir()
            raise FileNotFoundError(lock.lock_file)
        return acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", ends_meanwhile)
    lock = claim._acquired(states, states.path / claim.LOCK)
    assert lock.is_locked
    assert tried == [True, True]
    lock.release()


def test_what_killed_runs_have_left_of_these_outputs_is_removed(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    arguments = ["apply", checkpoint, *SOFM, "--epochs", "0"]
    theirs = checkpoint.with_name(".surgeon-01234567-0123456789abcdef.tmp")
    theirs.write_text("half an output of another name")
    link = os.link
    with monkeypatch.context() as patch:
        # As after a kill: no exception handler removes anything.
        for name in ("replace", "link"):
            patch.setattr(f"surgeon.checkpoint.write.os.{name}", lambda source, target: link(source, f"{source}.kept"))
        assert call(patch, *arguments) == 0
    for path in checkpoint.parent.rglob(".surgeon-*.kept"):
        path.rename(path.with_suffix(""))
    assert len(list(checkpoint.parent.glob(".surgeon-*.tmp"))) == 3
    assert len(list(checkpoint.parent.glob("*.state/.surgeon-*.tmp"))) == 1
    assert call(monkeypatch, *arguments) == 0
    assert names(checkpoint) == {*COMPLETE, theirs.name}


def test_a_run_that_was_killed_when_all_was_written_leaves_nothing_for_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interrupted: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "surgeon.operate.states.StateFolder.drop_states", lambda folder: os.kill(os.getpid(), signal.SIGINT)
        )
        assert call(patch, "apply", interrupted, *SOFM) == 130
    state = interrupted.with_name("digits-sofm.state")
    assert names(interrupted) == {*COMPLETE, state.name}
    written = interrupted.with_name("digits-sofm.safetensors").read_bytes()
    # Its outputs are complete, so they stay, and what it had still to remove goes.
    assert call(monkeypatch, "apply", interrupted, *SOFM) == 1
    assert "digits-sofm.safetensors exists" in capsys.readouterr().err
    assert names(interrupted) == COMPLETE
    assert interrupted.with_name("digits-sofm.safetensors").read_bytes() == written
