"""The events that TensorBoard reads, read back with its own reader."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from command_line import ARCH, QUICK, call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from surgeon.cli.events import Events
from surgeon.errors import OutputError
from surgeon.operate.record import Stage, StageName
from surgeon.tuning import EpochRecord


def read(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory))
    events.Reload()
    return events


def scalars(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def text(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    return "\n".join(value.decode() for value in event.tensor_proto.string_val)


def stage(name: StageName, top1: float | None, drift: float | None) -> Stage:
    return Stage(name, top1, None, None, drift, None, 1.0)


def epoch(number: int, top1: float | None, **metrics: float) -> EpochRecord:
    return EpochRecord(number, 0.5, 1.5, top1, None, 0.25, 9.0, 128.0, metrics=metrics)


def test_stages_and_epochs_of_several_targets_follow_each_other(tmp_path: Path) -> None:
    directory = tmp_path / "events"
    events = Events(directory, {"method": "sofm", "lr": 0.5}, print)
    assert not directory.exists()
    events.stage(stage("original", 50.0, None))
    events.epoch(epoch(0, 51.0))
    events.epoch(epoch(1, 52.0))
    events.stage(stage("operated", None, 0.75))
    events.epoch(epoch(0, 53.0, iou=0.5))
    events.close()
    back = read(directory)
    steps = (1, 2, 3)
    assert scalars(back) == {
        "original/top1": [(0, 50.0)],
        "operated/drift": [(2, 0.75)],
        "train/loss": [(step, 1.5) for step in steps],
        "train/lr": [(step, 0.5) for step in steps],
        "train/images_per_second": [(step, 128.0) for step in steps],
        "val/top1": [(1, 51.0), (2, 52.0), (3, 53.0)],
        "val/loss": [(step, 0.25) for step in steps],
        "val/iou": [(3, 0.5)],
    }
    assert json.loads(text(back, "options")) == {"method": "sofm", "lr": 0.5}


def test_a_run_that_goes_on_goes_on_counting(tmp_path: Path) -> None:
    first = Events(tmp_path, {}, print)
    first.stage(stage("original", 50.0, None))
    for number, top1 in enumerate((51.0, 52.0, 53.0)):
        first.epoch(epoch(number, top1))
    first.close()
    # The third epoch was over, but no state of it was written any more.
    second = Events(tmp_path, {}, print)
    second.resume(2)
    second.epoch(epoch(2, 63.0))
    second.epoch(epoch(0, 64.0))
    second.close()
    back = scalars(read(tmp_path))
    assert back["original/top1"] == [(0, 50.0)]
    assert back["val/top1"] == [(1, 51.0), (2, 52.0), (3, 63.0), (4, 64.0)]


def test_what_is_written_is_there_before_the_end(tmp_path: Path) -> None:
    events = Events(tmp_path, {}, print)
    events.stage(stage("original", 50.0, None))
    assert scalars(read(tmp_path)) == {"original/top1": [(0, 50.0)]}
    events.close()


def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="not a directory"):
        Events(taken, {}, print)
    inside = Events(taken / "events", {}, print)
    with pytest.raises(OutputError, match="No events can be written"):
        inside.stage(stage("original", 50.0, None))


def test_a_run_writes_what_its_record_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "events"
    options = ["--arch", ARCH, *QUICK, "--epochs", "2", "--json", "--tensorboard", str(directory)]
    assert call(monkeypatch, "finetune", checkpoint, *options) == 0
    record = json.loads(capsys.readouterr().out)
    back = read(directory)
    figures = scalars(back)
    for name, key in (("val/top1", "top1"), ("val/loss", "loss"), ("train/loss", "train_loss"), ("train/lr", "lr")):
        assert figures[name] == [(row["epoch"] + 1, pytest.approx(row[key])) for row in record["epochs"]]
    assert figures["original/top1"] == [(0, pytest.approx(record["stages"][0]["top1"]))]
    assert figures["finetuned/agreement"] == [(2, pytest.approx(record["stages"][1]["agreement"]))]
    assert json.loads(text(back, "options"))["tuning"] == record["tuning"]


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    importing = ("surgeon.cli.events", "torch.utils.tensorboard")
    for name in [name for name in sys.modules if name.startswith(importing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert call(monkeypatch, "finetune", checkpoint, "--arch", ARCH, *QUICK, "--tensorboard", tmp_path / "events") == 1
    shown = capsys.readouterr().err
    assert "pip install tensorboard" in shown
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_where_there_is_no_room_for_events_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said: list[str] = []
    events = Events(tmp_path / "events", {}, said.append)
    events.stage(stage("original", 50.0, None))
    assert said == []

    def full(writer: RecordWriter, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    for number in range(3):
        events.epoch(epoch(number, 50.0))
    events.close()
    assert said == [f"No more events are written to {tmp_path / 'events'}: No space left on device."]
    # Nor has TensorBoard's own thread said anything.
    assert "Traceback" not in capsys.readouterr().err
