"""Jobs that go on with what other processes began: the batches of all of them together stay what they were."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_jobs import make_job, run
from two_stages import make_network

import surgeon
from surgeon.checkpoint.tree_file import read_tree, write_tree
from surgeon.errors import OptionError, StateError
from surgeon.operate import other_processes
from surgeon.operate.job import Job
from surgeon.operate.other_processes import as_begun


class StoppedError(Exception):
    """Ends a run in the middle."""


def begun_by(processes: int, batch_size: int, folder: Path) -> Job:
    """Return a job whose states look as if so many processes had written them, after its first epoch."""
    surgeon.save(folder / "two.safetensors", make_network())
    together = {"recipe": {"batch-size": batch_size}, "epochs": 2, "output": folder / "out.safetensors"}
    job = make_job(folder / "two.safetensors", init="checkpoint", batch_size=processes * batch_size, **together)

    def stop(record: Any) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        run(job, on_epoch=stop)
    assert job.states is not None
    for path in job.states.path.glob("state-*"):
        state = read_tree(path)
        state["terms"] |= {"processes": processes, "batch_size": batch_size}
        write_tree(path, state, label=state["terms"])
    return replace(job, batch_size=batch_size)


def test_the_same_command_goes_on_in_one_process_where_that_is_allowed(tmp_path: Path) -> None:
    job = begun_by(2, 4, tmp_path)
    with pytest.raises(StateError, match=r"processes 2 \(now 1\), batch-size 4 \(now 8\)\. Go on .*--resume-changed"):
        run(job)
    said: list[str] = []
    run(replace(job, resume_changed=True), say=said.append)
    assert "It began with processes 2 (now 1), batch-size 4 (now 8)." in said
    notes = json.loads(job.record.read_text())["notes"]
    assert any("processes 2 (now 1), batch-size 4 (now 8)" in note for note in notes)


def test_a_batch_size_that_makes_up_for_the_other_process_is_taken_as_it_is(tmp_path: Path) -> None:
    job = begun_by(2, 4, tmp_path)
    run(replace(job, batch_size=8, recipe={"batch-size": 8}, resume_changed=True))


def test_any_other_batch_size_is_another_run(tmp_path: Path) -> None:
    job = begun_by(2, 4, tmp_path)
    with pytest.raises(StateError, match=r"images a batch of all processes 8 \(now 5\)"):
        run(replace(job, batch_size=5, recipe={"batch-size": 5}, resume_changed=True))


def test_images_that_cannot_be_shared_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = begun_by(2, 4, tmp_path)
    assert as_begun(job).batch_size == 8
    monkeypatch.setattr(other_processes, "count", lambda: 4)
    assert as_begun(job).batch_size == 2
    assert as_begun(replace(job, restart=True)).batch_size == 4
    monkeypatch.setattr(other_processes, "count", lambda: 3)
    with pytest.raises(OptionError, match=r"2 processes with batches of 4, and 3 cannot share 8 images evenly"):
        as_begun(job)


@pytest.mark.parametrize("label", [{}, {"processes": "two"}, {"processes": 2, "batch_size": None}, {"processes": -1}])
def test_a_label_that_says_nothing_of_use_changes_nothing(tmp_path: Path, label: dict[str, Any]) -> None:
    job = begun_by(2, 4, tmp_path)
    assert job.states is not None
    for path in job.states.path.glob("state-*"):
        write_tree(path, read_tree(path), label=label)
    assert as_begun(job).batch_size == 4
