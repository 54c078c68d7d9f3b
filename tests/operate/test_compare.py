"""Comparisons: the same for all runs, none done twice, none lost."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLock
from killed_runs import len_of, without_times
from shared_comparison import METHODS, make_runs
from two_stages import EXAMPLE, Two

import surgeon
from surgeon.data.image_data import EXEMPLARS
from surgeon.errors import (
    CheckpointError,
    DataError,
    LayerError,
    MemoryShortageError,
    OptionError,
    OutputError,
    PlanError,
)
from surgeon.operate import comparison_checks, comparison_run, job_inputs, locks
from surgeon.operate.compare import COMPARISON, compare
from surgeon.operate.comparison import ORIGINAL, Comparison, compared
from surgeon.operate.comparison_notes import LOOKING, RECALIBRATED
from surgeon.operate.comparison_run import CONTROL, Hooks, Outcome, Run
from surgeon.operate.job import Job
from surgeon.operate.record import Record
from surgeon.operate.run import run_job
from surgeon.progress import no_progress

SHARED = Path(__file__).with_name("shared_comparison.py")


class StoppedError(Exception):
    """Ends a run in the middle."""


@pytest.fixture(scope="module", autouse=True)
def _one_graph() -> Iterator[None]:
    # Tracing would take every run longer than the rest of it.
    graph = surgeon.trace(Two().eval(), EXAMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_inputs, "trace_for_images", lambda model, images: graph)
        yield


def do(
    runs: list[Run], folder: Path, *, keep_weights: bool = False, overwrite: bool = True, **hooks: Any
) -> tuple[Comparison, list[str]]:
    """Return the comparison, and which of its runs were done for it."""
    done: list[str] = []

    def on_run(run: Run) -> None:
        done.append(f"{run.name} {run.job.seed}")

    told = {"track": no_progress, "on_stage": len_of, "on_epoch": len_of, "say": len_of, **hooks}
    return compare(runs, folder, Hooks(on_run=on_run, **told), keep_weights=keep_weights, overwrite=overwrite), done


def changed(runs: list[Run], name: str, **values: Any) -> list[Run]:
    """Return the runs with other values in the jobs of one name."""
    return [dataclasses.replace(run, job=dataclasses.replace(run.job, **values)) if run.name == name else run
            for run in runs]  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_run_is_done_once_and_found_again(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    first, done = do(runs, tmp_path / "c")
    assert done == [f"{run.name} {run.job.seed}" for run in runs]
    again, none = do(runs, tmp_path / "c")
    assert none == []
    assert again.to_dict() == first.to_dict()
    more, added = do(make_runs(tmp_path, 3, **METHODS, **{"weight-evolution": {"alpha": "0.9"}}), tmp_path / "c")
    assert sorted(added) == [
        "by-chance 2", "control 2", "reinit 2", "weight-evolution 0", "weight-evolution 1",
        "weight-evolution 2",
    ]  # fmt: skip
    assert not any("further methods" in note for note in more.notes)
    assert [row.name for row in more.rows] == [ORIGINAL, CONTROL, *METHODS, "weight-evolution"]
    assert json.loads((tmp_path / "c" / COMPARISON).read_text()) == more.to_dict()
    one_of_them, none = do(make_runs(tmp_path, 2, **{"weight-evolution": {"alpha": "0.9"}}), tmp_path / "c")
    assert none == []
    assert one_of_them.notes[0].endswith("which the verdicts are not adjusted for: by-chance, reinit.")
    assert RECALIBRATED in one_of_them.notes
    assert LOOKING in one_of_them.notes


def test_a_run_leaves_its_record_and_its_weights_only_where_they_are_asked_for(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1, reinit={})
    without, _ = do(runs, tmp_path / "c")
    assert {name for one in without.outcomes for name in names(one.folder)} == {"run.json", "result.json"}
    said: list[str] = []
    do(runs, tmp_path / "c", keep_weights=True, say=said.append)
    assert said[0] == "2 of 2 runs are done already."
    assert said[-1] == ("Runs that were done before without --keep-weights have no weights any more.")
    kept, _ = do(runs, tmp_path / "k", keep_weights=True)
    assert all({"result.safetensors", "run.json"} <= names(one.folder) for one in kept.outcomes)
    assert [one.sha256 for one in kept.outcomes] == [one.sha256 for one in without.outcomes]


@pytest.mark.parametrize(
    "values",
    [{"options": {"ratio": "0.5"}}, {"layers": ("two",)}, {"recalibrate": False}, {"recipe": {"limit": 12}}],
    ids=lambda values: next(iter(values)),
)
def test_what_changes_a_result_makes_another_run(tmp_path: Path, values: dict[str, Any]) -> None:
    runs = make_runs(tmp_path, 1, reinit={"criterion": "l2"})
    do(runs, tmp_path / "c")
    assert do(changed(runs, "reinit", options={"criterion": "l2", "ratio": 0.3}), tmp_path / "c")[1] == []
    assert do(changed(runs, "reinit", **values), tmp_path / "c")[1] == ["reinit 0"]


def test_other_weights_make_other_runs(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1, reinit={"criterion": "l2"})
    do(runs, tmp_path / "c")
    surgeon.save(tmp_path / "two.safetensors", Two().eval(), overwrite=True)
    assert do(runs, tmp_path / "c")[1] == ["control 0", "reinit 0"]


@pytest.mark.parametrize("which", ["checkpoint", "teacher"])
def test_a_file_that_is_replaced_during_the_comparison_is_not_taken_for_the_first(tmp_path: Path, which: str) -> None:
    runs = make_runs(tmp_path, 1)
    teacher = tmp_path / "teacher.safetensors"
    surgeon.save(teacher, Two().eval())
    tuning = dataclasses.replace(runs[0].job.tuning, teacher_weight=0.5)
    if which == "teacher":
        for name in (CONTROL, *METHODS):
            runs = changed(runs, name, teacher=str(teacher), tuning=tuning)

    def replace(record: Any) -> None:
        surgeon.save(teacher if which == "teacher" else tmp_path / "two.safetensors", Two().eval(), overwrite=True)

    with pytest.raises(CheckpointError, match="seed 0, was replaced during the comparison"):
        do(runs, tmp_path / "c", on_epoch=replace)
    assert [names(folder) - {"claim"} for folder in (tmp_path / "c").iterdir()] == [set()]


def test_a_failure_of_a_replaced_file_is_none_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: Job, **hooks: Any) -> Record:
        surgeon.save(tmp_path / "two.safetensors", Two().eval(), overwrite=True)
        raise PlanError("The run edited nothing.", "Choose other layers.")

    monkeypatch.setattr(comparison_run, "run_job", fail)
    with pytest.raises(CheckpointError, match="was replaced during the comparison"):
        do(make_runs(tmp_path, 1), tmp_path / "c")
    assert [names(folder) - {"claim"} for folder in (tmp_path / "c").iterdir()] == [set()]


@pytest.mark.parametrize("entry", ["stages", "epochs", "partner", "checkpoint"])
def test_a_record_that_is_not_whole_is_not_trusted(tmp_path: Path, entry: str) -> None:
    runs = make_runs(tmp_path, 1, reinit={})
    first, _ = do(runs, tmp_path / "c")
    record = first.outcomes[1].folder / "result.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), entry: None}))
    assert do(runs, tmp_path / "c")[1] == ["reinit 0"]


def test_the_control_and_the_methods_see_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    # One method draws random numbers between the epochs.
    runs = make_runs(
        tmp_path, reinit={"criterion": "l2"}, again={"method": "reinit", "criterion": "random", "every": 1}
    )
    seen: dict[tuple[int, str], list[Any]] = {}
    of: list[tuple[int, str]] = []

    def on_run(run: Run) -> None:
        of.append((run.job.seed, run.name))
        seen[of[-1]] = []

    def track(batches: Any, description: str, total: int | None = None, *, training: Any = None) -> Iterator[Any]:
        for batch in batches:
            if training is not None and of:
                seen[of[-1]].append((training.epoch, batch[0].tolist(), batch[1].tolist()))
            yield batch

    hooks = Hooks(track, on_run, len_of, len_of, len_of)
    compare(runs, tmp_path / "c", hooks)
    batches = [(epoch, len(labels)) for epoch, _, labels in seen[0, CONTROL]]
    assert batches == [(0, 12), (0, 12), (1, 12), (1, 12)]
    assert seen[0, "reinit"] == seen[0, "again"] == seen[0, CONTROL]
    assert seen[1, "reinit"] == seen[1, "again"] == seen[1, CONTROL]
    assert seen[0, CONTROL][:2] != seen[1, CONTROL][:2]
    assert [images for _, images, _ in seen[0, CONTROL][:2]] != [images for _, images, _ in seen[0, CONTROL][2:]]


def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_left_alone(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    whole, _ = do(runs, tmp_path / "whole")
    epochs: list[Any] = []

    def stop(record: Any) -> None:
        epochs.append(record)
        if len(epochs) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        do(runs, tmp_path / "c", on_epoch=stop)
    said: list[str] = []
    after, done = do(runs, tmp_path / "c", say=said.append)
    assert done == ["reinit 0", "by-chance 0"]
    assert any(text.startswith("The run continues") for text in said)
    stages = [[without_times(run["stages"]) for run in one.to_dict()["runs"]] for one in (whole, after)]
    assert stages[0] == stages[1]


def test_an_interrupted_run_that_is_asked_for_in_other_words_begins_anew(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        raise StoppedError

    runs, said = make_runs(tmp_path, 1), list[str]()
    with pytest.raises(StoppedError):
        do(runs, tmp_path / "c", on_epoch=stop)
    found, _ = do(changed(runs, CONTROL, recipe={"data": "./images"}), tmp_path / "c", say=said.append)
    assert any("keeps the state of another run" in text and text.endswith("begins anew.") for text in said)
    assert not any(row.failed for row in found.rows)


def test_a_run_that_had_ended_but_was_not_taken_down_is_not_done_again(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    first, _ = do(runs, tmp_path / "c")
    for outcome in first.outcomes:
        (outcome.folder / "run.json").unlink()
    again, done = do(runs, tmp_path / "c")
    assert done == []
    assert again.to_dict() == first.to_dict()


def test_a_record_of_another_recipe_is_not_taken_for_this_one(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    first, _ = do(runs, tmp_path / "c")
    run = first.outcomes[1].folder / "run.json"
    run.write_text(run.read_text().replace(first.outcomes[1].sha256, "0" * 64))
    (first.outcomes[1].folder / "result.json").unlink()
    assert do(runs, tmp_path / "c")[1] == ["reinit 0"]


def test_several_processes_share_a_folder_and_do_no_run_twice(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, str(SHARED), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == sorted(f"{run.name} {run.job.seed}" for run in make_runs(tmp_path))


def test_a_method_that_fails_loses_nothing_but_itself(tmp_path: Path) -> None:
    methods = {
        # No filter is invalid at these shares, and with scales as large as this one the loss is no number.
        "weight-evolution": {"alpha": "0.01", "beta": "0.01"},
        "channel-regeneration": {"threshold": "3e38"},
    }
    runs = make_runs(tmp_path, 2, **METHODS, **methods)
    said: list[str] = []
    found, done = do(runs, tmp_path / "c", say=said.append)
    rows = {row.name: row for row in found.rows}
    assert "edited nothing" in rows["weight-evolution"].failed[0]
    assert rows["weight-evolution"].verdict.startswith("not compared")
    assert list(rows["channel-regeneration"].failed) == [0, 1]
    assert any(text.startswith("channel-regeneration, seed 1, failed: ") for text in said)
    for name in METHODS:
        difference = rows[name].difference
        assert difference is not None
        assert difference.seeds == (0, 1)
    assert found.compares
    assert len(done) == len(runs)
    assert not any(path.suffix == ".state" for one in found.outcomes for path in one.folder.iterdir())
    again, none = do(runs, tmp_path / "c", say=said.append)
    assert none == []
    assert again.to_dict() == found.to_dict()
    failed = [one.folder.name for one in again.outcomes if one.reason is not None]
    assert said[-1] == f"Runs that failed are not tried again, unless their folders are removed: {', '.join(failed)}."


def test_a_failure_that_may_pass_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(job: Job, **hooks: Any) -> Record:
        if job.method is not None:
            raise MemoryShortageError("The memory ran out.", "Take smaller batches.")
        return run_job(job, **hooks)

    runs, said = make_runs(tmp_path, 1), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(comparison_run, "run_job", full)
        found, _ = do(runs, tmp_path / "c", say=said.append)
    assert found.rows[2].failed == {0: "The memory ran out. Take smaller batches."}
    assert said[-1] == "by-chance, seed 0, failed: The memory ran out. Take smaller batches."
    assert do(runs, tmp_path / "c")[1] == ["reinit 0", "by-chance 0"]


def test_an_error_that_nobody_foresaw_ends_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Job, **hooks: Any) -> Record:
        if job.options.get("criterion") == "l2":
            raise ValueError("no such\nvalue")
        return run_job(job, **hooks)

    runs = make_runs(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(comparison_run, "run_job", broken)
        found, done = do(runs, tmp_path / "c")
    assert done == ["control 0", "reinit 0", "by-chance 0"]
    assert found.rows[2].failed == {0: "ValueError: 'no such\\nvalue'"}
    assert found.rows[3].difference is not None
    assert do(runs, tmp_path / "c")[1] == ["reinit 0"]


def test_a_reader_that_has_gone_ends_the_comparison(tmp_path: Path) -> None:
    def gone(record: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        do(make_runs(tmp_path, 1), tmp_path / "c", on_epoch=gone)


@pytest.mark.parametrize("error", [OSError("no locks here"), NotImplementedError("no locks here")])
def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def acquire(lock: Any) -> None:
        raise error

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)
    with pytest.raises(OutputError, match=r"claim cannot be locked: no locks here\."):
        do(make_runs(tmp_path, 1), tmp_path / "c")


def test_a_lock_that_a_killed_process_would_leave_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "FileLock", SoftFileLock)
    with pytest.raises(OutputError, match="the disk has no locks"):
        do(make_runs(tmp_path, 1), tmp_path / "c")


def test_without_any_method_that_works_nothing_is_compared(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1, **{"weight-evolution": {"alpha": "0.01", "beta": "0.01"}})
    found, _ = do(runs, tmp_path / "c")
    assert not found.compares
    assert found.verdict == "No method could be compared with the control."


@pytest.mark.parametrize(
    ("name", "values", "kind", "words"),
    [
        ("reinit", {"method": "nonsense"}, OptionError, "reinit: There is no method 'nonsense'"),
        ("reinit", {"options": {"share": "1"}}, OptionError, "reinit: The method reinit has no option 'share'"),
        ("reinit", {"layers": ("three",)}, LayerError, "reinit: .*three"),
        ("reinit", {"method": "repr", "options": {}}, OptionError, "reinit: repr needs .* epochs"),
        ("reinit", {"method": "sofm", "options": {}, "layers": ("one", "two")}, OptionError, "2 times as long"),
        ("reinit", {"epochs": 0}, OptionError, "another epochs than its control"),
        ("control", {"images": None}, DataError, "no images to fine-tune on"),
    ],
)
def test_what_no_training_is_needed_to_refuse_is_refused_before_the_first_run(
    tmp_path: Path, name: str, values: dict[str, Any], kind: type[Exception], words: str
) -> None:
    runs = changed(make_runs(tmp_path, 1), name, **values)
    with pytest.raises(kind, match=words):
        do(runs, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_network_mixed_with_itself_needs_a_copy_that_is_trained_along(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1, **{"filter-grafting": {}})
    runs = changed(runs, "filter-grafting", partner=runs[0].job.checkpoint)
    with pytest.raises(OptionError, match="stays as it is"):
        do(runs, tmp_path / "c")
    found, _ = do(changed(runs, "filter-grafting", options={"every": 1}), tmp_path / "c")
    control, grafted = found.rows[1:]
    assert (control.images, grafted.images) == (48, 96)
    assert grafted.verdict.endswith("with 2.0 times the control's training images")


def test_images_that_nobody_has_judged_compare_nothing(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    images = runs[0].job.images
    assert images is not None
    runs = changed(
        runs,
        CONTROL,
        images=lambda model: dataclasses.replace(images(model), source={"kind": EXEMPLARS, "size": (8, 8)}),
    )
    with pytest.raises(DataError, match="nobody's judgement"):
        do(runs, tmp_path / "c")


def test_runs_that_differ_in_more_than_the_method_are_refused(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    with pytest.raises(OptionError, match="reinit with seed 0 has another tuning than its control"):
        do(changed(runs, "reinit", tuning=dataclasses.replace(runs[0].job.tuning, lr=0.1)), tmp_path / "c")
    with pytest.raises(OptionError, match="reinit with seed 7 has no control"):
        do(changed(runs, "reinit", seed=7), tmp_path / "c")


def test_what_would_be_mixed_into_the_control_is_refused(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    mixed = [*runs, dataclasses.replace(runs[1], name=CONTROL)]
    with pytest.raises(OptionError, match="A run named control has a method"):
        do(mixed, tmp_path / "c")
    with pytest.raises(OptionError, match="A method cannot have the name as it came"):
        do([*runs, dataclasses.replace(runs[1], name=ORIGINAL)], tmp_path / "c")
    with pytest.raises(OptionError, match="two runs reinit with seed 0"):
        do([*runs, runs[1]], tmp_path / "c")


def test_a_launcher_of_several_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_checks, "count", lambda: 2)
    with pytest.raises(OptionError, match="without a launcher"):
        do(make_runs(tmp_path, 1), tmp_path / "c")


def test_a_comparison_needs_a_method_and_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, 1)
    with pytest.raises(OptionError, match="nothing to compare"):
        do(runs[:1], tmp_path / "c")
    (tmp_path / "c").write_text("a file")
    with pytest.raises(OutputError, match="is no folder"):
        do(runs, tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / COMPARISON).write_text("[1, 2]")
    with pytest.raises(OutputError, match="not the record of a comparison"):
        do(runs, tmp_path / "d")


def test_the_record_of_other_runs_is_not_replaced_without_being_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    do(make_runs(tmp_path, 1, **{"by-chance": METHODS["by-chance"]}), folder, overwrite=False)
    before = (folder / COMPARISON).read_bytes()
    others = make_runs(tmp_path, 1, reinit=METHODS["reinit"])
    done: list[Any] = []
    with pytest.raises(OutputError, match=r"a comparison with other runs: by-chance-seed0-\w+\. .*--overwrite"):
        do(others, folder, on_stage=done.append, overwrite=False)
    assert done == []
    assert (folder / COMPARISON).read_bytes() == before
    both, _ = do(make_runs(tmp_path, 1), folder, overwrite=False)
    assert {row.name for row in both.rows} >= set(METHODS)
    do(others, folder, overwrite=True)
    assert (folder / COMPARISON).read_bytes() != before


def test_a_comparison_that_others_have_written_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "c"

    def meanwhile(stage: Any) -> None:
        told = {"surgeon": "0", "rows": [], "runs": [{"folder": "mine"}]}
        (folder / COMPARISON).write_text(json.dumps(told))

    runs = make_runs(tmp_path, 1, reinit=METHODS["reinit"])
    with pytest.raises(OutputError, match="other runs: mine"):
        do(runs, folder, on_stage=meanwhile, overwrite=False)
    _, again = do(runs, folder)
    assert again == []


def outcome(name: str, seed: int, top1: float | None, reason: str | None = None) -> Outcome:
    """Return the outcome of a run that began at 80 %, took 5 seconds and trained on 100 images."""
    other = {"top5": 99.0, "loss": 0.5, "agreement": 0.9}
    stages = [
        {"top1": 80.0, "drift": 0.0, "seconds": 1.0, **other},
        {"top1": top1, "drift": 0.1, "seconds": 4.0, **other},
    ]
    record = None if reason else {"stages": stages, "epochs": [{}], "partner": {}}
    return Outcome(name, seed, Path("run"), "0" * 64, record, reason, None if reason else 100)


def test_rows_by_hand() -> None:
    outcomes = [
        *(outcome(CONTROL, seed, top1) for seed, top1 in enumerate((81.0, 82.0, 83.0))),
        *(outcome("a", seed, top1) for seed, top1 in enumerate((82.0, 84.0, 86.0))),
        outcome("b", 0, 70.0), outcome("b", 1, None, "The loss became NaN."), outcome("b", 2, 72.0),
    ]  # fmt: skip
    (original, control, a, b), _ = compared(outcomes)
    assert (original.figures["top1"].mean, original.figures["top1"].deviation, original.images) == (80.0, 0.0, None)
    assert original.seconds.mean is None
    assert (control.figures["top1"].mean, control.figures["top1"].deviation) == (82.0, 1.0)
    assert (control.seconds.mean, control.images, control.difference) == (5.0, 100, None)
    assert a.difference is not None
    assert (a.difference.mean, a.difference.deviation) == (2.0, 1.0)
    # t = 2 · √3 with two degrees of freedom; b has no p-value, and counts as the second of two.
    assert a.difference.p_value == pytest.approx(0.0741799, abs=1e-6)
    assert a.p_value == pytest.approx(2 * 0.0741799, abs=1e-6)
    assert b.difference is not None
    assert (b.difference.mean, b.difference.seeds) == (-11.0, (0, 2))
    assert b.failed == {1: "The loss became NaN."}
