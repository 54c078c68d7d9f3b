"""The record of a run: what was done, with the figures of every stage."""

import dataclasses
import itertools
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from math import isfinite
from typing import Any, Literal

from surgeon.edit.plan import Plan

StageName = Literal["original", "operated", "recalibrated", "finetuned"]


@dataclass(frozen=True)
class Stage:
    """The figures of one stage.

    Attributes:
        name: `original`, `operated`, `recalibrated` or `finetuned`.
        top1: top-1 on the validation images, in percent; None without validation images. Likewise the next two.
        top5: top-5, in percent.
        loss: mean cross-entropy.
        drift: relative L2 distance of the logits to the original's (or another network's, as the notes then say) on
            the first calibration images; None without images.
        agreement: share, 0 … 1, of these images with the same top-1 answer; None without images.
        seconds: wall-clock time of the stage's work, its evaluation included.
        target: the module that was operated on; None for the original.
        metrics: the figures of another task than classification by name.
    """

    name: StageName
    top1: float | None
    top5: float | None
    loss: float | None
    drift: float | None
    agreement: float | None
    seconds: float
    target: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What was done to a network.

    Attributes:
        method: name of the method.
        options: its options.
        seed: seed of everything random.
        targets: modules whose channels were edited.
        edits: every changed tensor axis: tensor, dim, channels, what.
        figures: the method's own numbers, by group.
        skipped: what was left alone, and why.
        stages: figures of every stage, in order.
        epochs: figures of every epoch of fine-tuning, in order.
        tuning: the options of fine-tuning; empty where there was none.
        arch: the network's architecture, where it is known.
        arch_arguments: what it is built with, such as the number of classes, where that is not its own default.
        resized: whether its layers have other sizes than the architecture's, or cross-attention: only `surgeon.load`
            builds it from its file then.
        checkpoint: path and SHA-256 of the input; empty for a network without a file.
        output: path of the result, or None.
        data: what the images were: their `kind`, which is `images`, `exemplars` or `random`, their name, and for
            exemplars where they are kept and how they were made; `skipped`, where there are any, counts images that
            could not be read and were left out; empty without images, and in Python.
        partner: of a method that mixes two networks, whether the second was trained along, and its path and SHA-256
            where it came from a file; empty for other methods.
        device: where it ran.
        recipe: the options of the command line that do the same again, by name (`--recipe RECORD.json`); empty for a
            run that was not started there.
        notes: what a reader of the figures should know.
    """

    method: str
    options: Mapping[str, Any]
    seed: int
    targets: tuple[str, ...]
    edits: tuple[Mapping[str, Any], ...]
    figures: Mapping[str, Any]
    skipped: tuple[str, ...]
    stages: tuple[Stage, ...]
    epochs: tuple[Mapping[str, Any], ...]
    tuning: Mapping[str, Any] = field(default_factory=dict)
    arch: str | None = None
    arch_arguments: Mapping[str, Any] = field(default_factory=dict)
    resized: bool = False
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    partner: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types, with the versions of what made it."""
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "stages"}
        content = {
            "surgeon": metadata.version("surgeon"),
            **known,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "versions": versions(),
        }
        return {name: strict(value) for name, value in content.items()}

    def to_json(self) -> str:
        """Return the record as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str) + "\n"


def strict(value: Any) -> Any:
    """Return a value as JSON knows it: lists for tuples, and nothing for NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    libraries = ("torch", "torchvision", "timm", "accelerate", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in libraries}}


def edit_rows(plan: Plan, epoch: int | None = None) -> tuple[dict[str, Any], ...]:
    """Return the plan's changes as rows of a record; `epoch` where they happened during fine-tuning."""
    rows = []
    for change in plan.changes():
        row = {
            "tensor": change.tensor,
            "dim": change.dim,
            "channels": change.channels,
            "positions": ranges(sorted(change.positions.tolist())),
            "what": change.what,
        }
        if change.rows is not None:
            row["rows"] = [change.rows.start, change.rows.stop]
        if epoch is not None:
            row["epoch"] = epoch
        rows.append(row)
    return tuple(rows)


def plan_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON types: what a dry run prints."""
    return {
        "method": plan.method,
        "options": dict(plan.options),
        "targets": list(plan.targets),
        "edits": list(edit_rows(plan)),
        "figures": dict(plan.figures),
        "skipped": list(plan.skipped),
    }


def ranges(positions: list[int]) -> str:
    """Return sorted positions as text, runs shortened: `0-3,7`."""
    # Within a run of neighbours a position and its place in the list grow alike.
    runs = itertools.groupby(enumerate(positions), key=lambda place: place[1] - place[0])
    ends = ([position for _, position in run] for _, run in runs)
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ends)
