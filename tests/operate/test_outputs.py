"""What a job reads stays, and what others have put where it writes."""

import contextlib
import dataclasses
import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from small_jobs import make_job, run

from surgeon.checkpoint import write_text
from surgeon.errors import OutputError
from surgeon.operate import claim
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.job_checks import check_outputs
from surgeon.operate.states import StateFolder


def reading(folder: Path, what: str, name: str) -> Job:
    """Return a job, which may overwrite, on a file of this name."""
    path = folder / name
    path.write_bytes(b"precious")
    job = make_job(folder / "in.safetensors", output=folder / "o.safetensors", overwrite=True, init="checkpoint")
    if what == "recipe":
        return dataclasses.replace(job, also_read=(("the recipe", path),))
    changed: Any = str(path) if what == "teacher" else f"{path}:build" if what == "arch" else path
    return dataclasses.replace(job, **{what: changed})


@pytest.mark.parametrize("what", ["checkpoint", "partner", "teacher", "recipe"])
@pytest.mark.parametrize("name", ["o.safetensors", "o-best.safetensors", "o.json", "card.md"])
def test_no_output_replaces_an_input_whatever_may_be_overwritten(tmp_path: Path, what: str, name: str) -> None:
    job = dataclasses.replace(reading(tmp_path, what, name), reports={tmp_path / "card.md": str})
    with pytest.raises(OutputError, match=f"{name} would replace an input or another output: the {what}"):
        check_outputs(job)


def test_the_same_file_is_known_by_every_name(tmp_path: Path) -> None:
    job = reading(tmp_path, "checkpoint", "in.safetensors")
    check_outputs(job)
    for link in (os.link, os.symlink):
        best = tmp_path / "o-best.safetensors"
        link(tmp_path / "in.safetensors", best)
        with pytest.raises(OutputError, match="the checkpoint"):
            check_outputs(job)
        best.unlink()


def test_what_describes_a_network_is_an_input_too(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the code of the network"):
        check_outputs(dataclasses.replace(reading(tmp_path, "arch", "net.py"), reports={tmp_path / "net.py": str}))
    named = reading(tmp_path, "checkpoint", "in.safetensors")
    with pytest.raises(OutputError, match=r"config.json beside the checkpoint"):
        check_outputs(dataclasses.replace(named, output=tmp_path / "config.safetensors"))


def test_a_plan_is_neither_written_over_an_input_nor_mistaken_for_a_result(tmp_path: Path) -> None:
    job = reading(tmp_path, "partner", "p.safetensors")
    check_outputs(dataclasses.replace(job, plan_output=job.result))
    with pytest.raises(OutputError, match="the partner"):
        check_outputs(dataclasses.replace(job, plan_output=tmp_path / "p.safetensors"))


def test_exemplars_that_will_be_made_replace_no_input(tmp_path: Path) -> None:
    job = reading(tmp_path, "teacher", "o.exemplars.safetensors")
    check_outputs(job)
    nothing: Any = None
    made = ExemplarJob(config=nothing, images=nothing, vary=nothing)
    with pytest.raises(OutputError, match="the teacher"):
        check_outputs(dataclasses.replace(job, images=None, exemplars=made))


def small_run(folder: Path, **others: Any) -> Job:
    return make_job(None, output=folder / "o.safetensors", **others)


def announced(monkeypatch: pytest.MonkeyPatch, then: Any) -> None:
    """Do something as soon as a run has said what it is going to write, before it does."""
    announce = StateFolder.announce

    def said(states: StateFolder, outputs: Any) -> None:
        announce(states, outputs)
        then()

    monkeypatch.setattr(StateFolder, "announce", said)


@pytest.mark.parametrize("name", ["o.safetensors", "o.json", "o-best.safetensors"])
def test_what_others_put_there_after_a_run_was_killed_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        announced(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            run(small_run(tmp_path))
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match=f"{name} exists"):
        run(small_run(tmp_path))
    assert (tmp_path / name).read_bytes() == b"precious"
    (tmp_path / name).unlink()
    run(small_run(tmp_path))
    assert not (tmp_path / "o.state").exists()


@pytest.mark.parametrize("epochs", [0, 1])
def test_what_others_put_there_just_before_a_run_does_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, epochs: int
) -> None:
    result, best = tmp_path / "o.safetensors", tmp_path / "o-best.safetensors"

    def precious() -> None:
        result.write_bytes(b"precious")
        best.write_bytes(b"precious, too")

    job = small_run(tmp_path, epochs=epochs, method="reinit", options={"criterion": "l2"})
    with monkeypatch.context() as patch:
        announced(patch, precious)
        with pytest.raises(OutputError, match=r"o\.safetensors exists"):
            run(job)
    assert (result.read_bytes(), best.read_bytes()) == (b"precious", b"precious, too")
    assert not (tmp_path / "o.json").exists()
    result.unlink()
    with monkeypatch.context() as patch:
        # Nor where the run has nothing to put in a place that it may clear of what it has put there before.
        announced(patch, lambda: best.write_bytes(b"precious, too"))
        best.unlink()
        run(job)
    assert best.read_bytes() == b"precious, too"
    assert result.exists()


def test_a_run_holds_every_name_that_it_writes_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claim, "PATIENCE", 0)
    job = dataclasses.replace(small_run(tmp_path), reports={tmp_path / "card.md": lambda record: "card"})
    with claim.claimed(job):
        for name in ("o-best.safetensors", "card.safetensors", "o.safetensors"):
            with pytest.raises(OutputError, match="Another run works"):
                run(dataclasses.replace(job, output=tmp_path / name, reports={}))
    assert list(tmp_path.iterdir()) == []
    # The same name in other words is not another run's.
    (tmp_path / "other").mkdir()
    with claim.claimed(dataclasses.replace(job, reports={tmp_path / "other" / ".." / "o.md": lambda record: "card"})):
        assert (tmp_path / "o.state").is_dir()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOLCK])
def test_a_lock_that_cannot_be_made_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def acquire(lock: FileLock) -> None:
        Path(lock.lock_file).touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(OutputError, match=f"lock cannot be locked: {os.strerror(number)}"):
        run(small_run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_states_that_cannot_be_removed_are_a_remark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unlink, said = Path.unlink, []

    def fails(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("state-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        run(small_run(tmp_path, epochs=3), say=said.append)
    assert [one for one in said if "cannot be removed: Input/output error" in one] != []
    assert (tmp_path / "o.json").exists()
    # What stays is known to be of no use, and goes with the next run.
    with pytest.raises(OutputError, match="exists"):
        run(small_run(tmp_path))
    assert not (tmp_path / "o.state").exists()


@pytest.mark.parametrize(("number", "fails"), [(errno.EIO, True), (errno.EINVAL, False), (errno.ENOTSUP, False)])
def test_a_folder_that_cannot_be_brought_to_the_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, fails: bool
) -> None:
    fsync = os.fsync

    def of_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_folders)
    for write in (lambda: write_text(tmp_path / "file", "text"), StateFolder(tmp_path / "o.state").make):
        with pytest.raises(OutputError, match=os.strerror(number)) if fails else contextlib.nullcontext():
            write()


def test_a_damaged_state_does_not_stand_for_a_sound_one(tmp_path: Path) -> None:
    folder, said = StateFolder(tmp_path / "o.state"), []
    for number in (1, 2):
        folder.write("run", {"number": number})
    states = sorted(folder.path.glob("state-*"))
    states[1].write_bytes(states[1].read_bytes()[:-1] + b"?")
    found = folder.newest("run", said.append)
    assert found is not None
    assert (found["number"], len(said)) == (1, 1)
    folder.write("run", {"number": 3})
    assert sorted(folder.path.glob("state-*")) == [states[0], folder.path / "state-00000003.safetensors"]
    (folder.path / "state-00000003.safetensors").write_bytes(b"")
    again = StateFolder(folder.path).newest("run", said.append)
    assert again is not None
    assert again["number"] == 1
