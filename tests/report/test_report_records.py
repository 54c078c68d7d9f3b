"""Records are read with every value checked."""

from pathlib import Path
from typing import Any

import pytest
from hand_written import epoch, read_run, record, stage, written

from surgeon.errors import DataError
from surgeon.report.groups import Reach, best_measure, control_of, grouped, reach
from surgeon.report.records import LARGEST_FILE


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(written(tmp_path, "a.json", record(seed=3)))
    assert (run.method, run.seed, run.targets, run.subject) == ("sofm", 3, ("layer1",), "layer1")
    assert [stage.top1 for stage in run.stages] == [80.0, 12.5, 70.0]
    assert [(edit.tensor, edit.channels, edit.epoch) for edit in run.edits] == [
        ("layer1.0.conv1.weight", 3, None), ("layer1.0.bn1.weight", 3, None), ("layer1.0.conv2.weight", 1, 1)
    ]  # fmt: skip
    assert not run.is_control
    assert run.recipe["set"] == {"ratio": "0.5"}


def test_what_older_records_lack_is_empty(tmp_path: Path) -> None:
    run = read_run(written(tmp_path, "a.json", {"surgeon": "0.0.1", "method": "finetune", "stages": []}))
    assert (run.edits, run.epochs, run.recipe, run.arch, run.sha256, run.subject) == (
        (), (), {}, None, None, "the whole network"
    )  # fmt: skip
    assert run.is_control


def test_texts_are_made_printable(tmp_path: Path) -> None:
    hostile = record(notes=["\x1b[31mred\x07\n\ud800\u202e", "x" * 10_000], arch="a\x00b")
    run = read_run(written(tmp_path, "a.json", hostile))
    assert run.notes[0] == r"\x1b[31mred\x07\n\ud800\u202e"
    assert len(run.notes[1]) == 4000
    assert run.arch == r"a\x00b"


def test_a_run_on_all_layers_of_a_deep_network_is_read(tmp_path: Path) -> None:
    layers = [f"layer{number}.{block}.conv1" for number in range(4) for block in range(40)]
    target = ", ".join(layers)
    stages, epochs = [stage("operated", 12.5, target=target)], [epoch(0, 50.0, target=target)]
    run = read_run(written(tmp_path, "a.json", record(targets=layers, stages=stages, epochs=epochs)))
    assert len(target) > 2000
    assert run.stages[0].target == run.epochs[0].target == target


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"stages": {"name": "original"}}, "stages"),
        ({"stages": [5]}, "stages[0]"),
        ({"stages": [stage("original", "80")]}, "stages[0].top1"),
        ({"stages": [stage("original", True)]}, "stages[0].top1"),
        ({"stages": [stage("original", 1e999)]}, None),
        ({"epochs": [epoch(0, 1.0), epoch(1, [])]}, "epochs[1].top1"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": [epoch(0, 1.0)] * 10_001}, ""),
        ({"edits": [{"tensor": 5}]}, "edits[0].tensor"),
        ({"edits": [{"tensor": "a", "dim": -1, "channels": 1, "what": ""}]}, "edits[0].dim"),
        ({"edits": [{"tensor": "a", "dim": 0, "channels": 1.5, "what": ""}]}, "edits[0].channels"),
        ({"edits": [{"tensor": "a", "dim": 0, "channels": 1, "what": "", "rows": [1]}]}, "edits[0].rows"),
        ({"checkpoint": "a.pt"}, "checkpoint"),
        ({"recipe": ["apply"]}, "recipe"),
        ({"options": {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}}, "options[0]"),
        ({"notes": [[]]}, "notes[0]"),
        ({"method": 7}, "method"),
        ({"arch": "x" * 2000}, "arch"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path: Path, change: dict[str, Any], place: str | None) -> None:
    path = written(tmp_path, "a.json", record(**change))
    if place is None:
        # What JSON cannot say is no figure.
        assert read_run(path).stages[0].top1 is None
        return
    with pytest.raises(DataError) as refusal:
        read_run(path)
    assert (f"{path}.{place}" if place else "more than 10,000 epochs") in refusal.value.problem
    assert "x" * 50 not in refusal.value.problem


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"a": 1}', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"5" * 5000]
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_run(path)


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="no file"):
        read_run(path)
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(DataError, match="larger"):
        read_run(path)


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path: Path) -> None:
    contents = [
        record("finetune"),
        record(seed=0),
        record(seed=1),
        record(options={"ratio": 0.25}),
        record("finetune", seed=1),
    ]
    runs = [read_run(written(tmp_path, f"{number}.json", content)) for number, content in enumerate(contents)]
    groups = grouped(runs)
    assert [(group.label, [run.path.name for run in group.runs]) for group in groups] == [
        ("sofm (ratio 0.5)", ["1.json", "2.json"]),
        ("sofm (ratio 0.25)", ["3.json"]),
        ("finetune (control)", ["0.json", "4.json"]),
    ]


def test_the_spread_of_several_seeds() -> None:
    assert reach([1.0, None, 2.0, 6.0]) == Reach(3.0, 1.0, 6.0, 3)
    assert reach([None]) is None


def test_the_control_is_of_the_same_network_and_seed(tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"checkpoint": {}}
    contents = [
        record(seed=1),
        record("finetune"),
        record("finetune", seed=1),
        record("finetune", seed=1, checkpoint={"path": "b", "sha256": "1" * 64}),
        record(**unknown),
        record("finetune", **unknown),
    ]
    runs = [read_run(written(tmp_path, f"{number}.json", content)) for number, content in enumerate(contents)]
    assert control_of(runs[0], runs) is runs[2]
    assert control_of(runs[0], runs[:2]) is runs[1]
    # Two networks of which nothing is known are not the same.
    assert control_of(runs[4], runs) is None


def test_runs_are_compared_by_what_they_measured(tmp_path: Path) -> None:
    def measure(**change: Any) -> tuple[str, float | None] | None:
        run = read_run(written(tmp_path, "a.json", record(**change)))
        found = best_measure([run])
        return None if found is None else (found.name, found.of(run.stages[-1]))

    assert measure() == ("top-1 (%)", 70.0)
    without: dict[str, Any] = {"epochs": []}
    told = [stage("finetuned", None, agreement=0.25)]
    assert measure(stages=told, **without) == ("agreement with the original (%)", 25.0)
    other = [stage("finetuned", None, metrics={"mean IoU": 0.5})]
    assert measure(stages=other, **without) == ("mean IoU", 0.5)
    assert measure(stages=[stage("finetuned", None)], **without) is None
