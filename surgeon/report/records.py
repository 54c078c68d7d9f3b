"""Records of runs, read from files that are not trusted: nothing that they name is imported or run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.bounded_file import read_text
from surgeon.bounded_json import BoundError, parse
from surgeon.errors import DataError
from surgeon.report.untrusted import REMEDY, Entry, printable

LARGEST_FILE = 2**26
"""Bytes of a record."""

CONTROL = "finetune"
"""The method of a run that operates on nothing."""

MOST_VALUES, DEEPEST = 2**19, 40
"""Of the JSON in it."""

MOST_EPOCHS = 10_000
"""Epochs of a run: a page draws no more."""


@dataclass(frozen=True)
class StageFigures:
    """The figures of one stage; see `surgeon.operate.record.Stage`."""

    name: str
    target: str | None
    top1: float | None
    top5: float | None
    loss: float | None
    drift: float | None
    agreement: float | None
    seconds: float | None
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class EpochFigures:
    """The figures of one epoch; see `surgeon.tuning.EpochRecord`.

    Attributes:
        operated: the network was operated on before the epoch.
    """

    target: str | None
    phase: str | None
    lr: float | None
    train_loss: float | None
    top1: float | None
    loss: float | None
    metrics: Mapping[str, float | None]
    operated: bool


@dataclass(frozen=True)
class EditRow:
    """One changed tensor axis.

    Attributes:
        tensor: state-dict key.
        dim: axis.
        channels: number of channels concerned.
        positions: places along the axis, runs shortened: `0-3,7`.
        rows: the slice of axis 0 concerned, in words; empty for all.
        what: what happened.
        epoch: the epoch of fine-tuning before which it did, from 0; None before the first.
    """

    tensor: str
    dim: int
    channels: int
    positions: str
    rows: str
    what: str
    epoch: int | None


@dataclass(frozen=True)
class Run:
    """What the record of a run says, every value checked and every text printable.

    Attributes:
        path: the record's file.
        title: what tells it from other runs: its file's name, or what a comparison calls it.
        name: of its method in a comparison; None where it was no part of one.
        comparison: the file of that comparison, likewise.
        method: name of the method, `finetune` for a control.
        raw: the decoded JSON, for comparing with a checkpoint's header.
    """

    path: Path
    title: str
    name: str | None
    comparison: Path | None
    surgeon: str
    method: str
    options: Mapping[str, Any]
    seed: int | None
    targets: tuple[str, ...]
    edits: tuple[EditRow, ...]
    figures: Mapping[str, Any]
    skipped: tuple[str, ...]
    stages: tuple[StageFigures, ...]
    epochs: tuple[EpochFigures, ...]
    tuning: Mapping[str, Any]
    arch: str | None
    checkpoint: str | None
    sha256: str | None
    output: str | None
    data: Mapping[str, Any]
    device: str
    recipe: Mapping[str, Any]
    notes: tuple[str, ...]
    versions: Mapping[str, Any]
    raw: Mapping[str, Any]

    @property
    def is_control(self) -> bool:
        """Whether nothing was operated on."""
        return self.method == CONTROL

    @property
    def subject(self) -> str:
        """What was operated on, in words."""
        return ", ".join(self.targets) or "the whole network"


def decoded(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DataError: it cannot be read, is larger than 64 MiB, or holds something else.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", REMEDY)
    try:
        text = read_text(path, LARGEST_FILE)
        value = parse(text, most=MOST_VALUES, deepest=DEEPEST, constant=lambda name: None)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    except BoundError as error:
        raise DataError(f"{path} is not read: {error}.", REMEDY) from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON that can be read.", REMEDY) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no record of a run.", REMEDY)
    return value


def run_of(value: Mapping[str, Any], path: Path) -> Run:
    """Return what a decoded record says.

    Args:
        value: the decoded JSON.
        path: its file, for messages.

    Raises:
        DataError: it is no record, a value has another type than it should, or there are more than 10,000 epochs.
    """
    if not {"surgeon", "method", "stages"} <= value.keys():
        raise DataError(f"{path} is no record of a run.", REMEDY)
    record = Entry(value, str(path))
    epochs = _list(record.get("epochs"))
    if len(epochs) > MOST_EPOCHS:
        raise DataError(f"The run of {path} has more than {MOST_EPOCHS:,} epochs.", REMEDY)
    source = record.get("checkpoint")
    return Run(
        path=path,
        title=printable(path.name),
        name=None,
        comparison=None,
        surgeon=record.get("surgeon").text(),
        method=record.get("method").name(),
        options=_mapping(record.get("options")),
        seed=record.get("seed").optional(Entry.count),
        targets=record.get("targets").texts(),
        edits=tuple(_edit(row) for row in _list(record.get("edits"))),
        figures=_mapping(record.get("figures")),
        skipped=record.get("skipped").texts(),
        stages=tuple(_stage(stage) for stage in record.get("stages").entries()),
        epochs=tuple(_epoch(epoch) for epoch in epochs),
        tuning=_mapping(record.get("tuning")),
        arch=record.get("arch").optional(Entry.name),
        checkpoint=None if source.value is None else source.get("path").optional(Entry.name),
        sha256=None if source.value is None else source.get("sha256").optional(Entry.name),
        output=record.get("output").optional(Entry.name),
        data=_mapping(record.get("data")),
        device=record.get("device").optional(Entry.name) or "",
        recipe=_mapping(record.get("recipe")),
        notes=record.get("notes").texts(),
        versions=_mapping(record.get("versions")),
        raw=value,
    )


def _list(entry: Entry) -> tuple[Entry, ...]:
    return () if entry.value is None else entry.entries()


def _mapping(entry: Entry) -> dict[str, Any]:
    return {} if entry.value is None else entry.named(lambda node: node.plain())


def _figures(entry: Entry) -> dict[str, float | None]:
    return {} if entry.value is None else entry.named(Entry.figure)


def _stage(stage: Entry) -> StageFigures:
    return StageFigures(
        name=stage.get("name").name(),
        target=stage.get("target").optional(Entry.text),
        top1=stage.get("top1").figure(),
        top5=stage.get("top5").figure(),
        loss=stage.get("loss").figure(),
        drift=stage.get("drift").figure(),
        agreement=stage.get("agreement").figure(),
        seconds=stage.get("seconds").figure(),
        metrics=_figures(stage.get("metrics")),
    )


def _epoch(epoch: Entry) -> EpochFigures:
    return EpochFigures(
        target=epoch.get("target").optional(Entry.text),
        phase=epoch.get("phase").optional(Entry.name),
        lr=epoch.get("lr").figure(),
        train_loss=epoch.get("train_loss").figure(),
        top1=epoch.get("top1").figure(),
        loss=epoch.get("loss").figure(),
        metrics=_figures(epoch.get("metrics")),
        operated=epoch.get("operation").value is not None,
    )


def _edit(row: Entry) -> EditRow:
    rows = row.get("rows")
    ends = [] if rows.value is None else [entry.count() for entry in rows.entries()]
    if len(ends) not in (0, 2):
        raise rows.refusal("a first and a last row")
    return EditRow(
        tensor=row.get("tensor").name(),
        dim=row.get("dim").count(),
        channels=row.get("channels").count(),
        positions=row.get("positions").optional(Entry.text) or "",
        rows=f"{ends[0]}-{ends[1] - 1}" if ends else "",
        what=row.get("what").text(),
        epoch=row.get("epoch").optional(Entry.count),
    )
