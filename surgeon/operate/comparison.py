"""The record of a comparison: what every method achieved beside the control, and what that allows to say."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from surgeon.operate.comparison_run import CONTROL, FIGURES, Outcome
from surgeon.operate.paired import Difference, Spread, holm, paired_difference, spread
from surgeon.operate.record import strict, versions
from surgeon.operate.verdicts import Finding, conclusion, verdict

ORIGINAL = "as it came"
"""The name of the network before anything was done to it."""

RESERVED = (CONTROL, ORIGINAL)
"""Names that no method may have."""


@dataclass(frozen=True)
class Row:
    """What the runs of one name achieved, over their seeds.

    Attributes:
        name: of a method in the comparison, `CONTROL`, or `ORIGINAL` for the network as it came.
        figures: of the last stage: top-1 and top-5 in percent, loss, drift and agreement.
        seconds: wall-clock seconds of a run, its evaluations included; nothing for `ORIGINAL`.
        images: images that a run has trained on; None where that is not known, and for `ORIGINAL`.
        difference: of top-1 to the control's, in percent points; None for the control, `ORIGINAL`, and without a pair.
        p_value: of that difference, adjusted for the number of methods; see `holm`.
        failed: by seed, why a run failed.
        verdict: what the difference allows to say; empty for the control and `ORIGINAL`.
    """

    name: str
    figures: Mapping[str, Spread]
    seconds: Spread
    images: int | None
    difference: Difference | None = None
    p_value: float | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        rows: the network as it came, the control, and the methods in the order in which they were named.
        outcomes: of all runs.
        verdict: the methods' verdicts in a sentence.
        seeds: of the runs.
        arch: the network's architecture.
        checkpoint: path and SHA-256 of the input; empty without one.
        data: what the images were.
        epochs: of fine-tuning.
        recipe: the options of the command line that do the same again, by name; empty elsewhere.
        notes: what a reader of the figures should know.
    """

    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]
    verdict: str
    seeds: tuple[int, ...]
    arch: str
    checkpoint: Mapping[str, str]
    data: Mapping[str, Any]
    epochs: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether any method could be compared with the control."""
        return any(row.difference is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types, with the stages and epochs of every run."""
        content = {
            "surgeon": metadata.version("surgeon"),
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("rows", "outcomes")},
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "runs": [_run_dict(outcome) for outcome in self.outcomes],
            "versions": versions(),
        }
        return {name: strict(value) for name, value in content.items()}

    def to_json(self) -> str:
        """Return the comparison as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str) + "\n"


def compared(outcomes: Sequence[Outcome]) -> tuple[tuple[Row, ...], str]:
    """Return a row for the network as it came, the control, and every method, and the verdict on all of them.

    Args:
        outcomes: of all runs, the control's among them.
    """
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.name, []).append(outcome)
    control = by_name.pop(CONTROL)
    original = _row(ORIGINAL, [_original(one) for one in control if one.record is not None])
    reached = _by_seed(control, "top1")
    differences = {name: paired_difference(_by_seed(runs, "top1"), reached) for name, runs in by_name.items()}
    p_values = holm([None if one is None else one.p_value for one in differences.values()])
    rows, own = [], _row(CONTROL, control)
    for (name, difference), p_value in zip(differences.items(), p_values, strict=True):
        row = _row(name, by_name[name])
        more = row.images / own.images if row.images and own.images else 1.0
        words = verdict(difference, p_value, methods=len(by_name), seeds=len(by_name[name]), budget=more)
        rows.append(dataclasses.replace(row, difference=difference, p_value=p_value, verdict=words))
    findings = [
        Finding(row.name, row.difference, row.p_value, _unpaired(row.difference, by_name[row.name])) for row in rows
    ]
    return (original, own, *rows), conclusion(findings, seeds=len(control))


def _unpaired(difference: Difference | None, outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    paired = () if difference is None else difference.seeds
    return tuple(one.seed for one in outcomes if one.seed not in paired)


def _row(name: str, outcomes: Sequence[Outcome]) -> Row:
    records = [one.record for one in outcomes if one.record is not None]
    return Row(
        name=name,
        figures={figure: spread([record["stages"][-1][figure] for record in records]) for figure in FIGURES},
        seconds=spread([seconds(record) for record in records if record["epochs"]]),
        images=next((one.images for one in outcomes if one.images is not None), None),
        failed={one.seed: one.reason for one in outcomes if one.reason is not None},
    )


def seconds(record: Mapping[str, Any]) -> float:
    """Return the wall-clock seconds of a run's stages."""
    return float(sum(stage["seconds"] for stage in record["stages"]))


def _original(outcome: Outcome) -> Outcome:
    """Return what a run would be that had ended before it did anything."""
    record = outcome.record or {}
    return dataclasses.replace(outcome, record={**record, "stages": record["stages"][:1], "epochs": []}, images=None)


def _by_seed(outcomes: Sequence[Outcome], figure: str) -> dict[int, float | None]:
    return {one.seed: one.record["stages"][-1][figure] for one in outcomes if one.record is not None}


def _run_dict(outcome: Outcome) -> dict[str, Any]:
    record = outcome.record or {}
    kept = ("method", "options", "targets", "stages", "epochs", "tuning", "device", "partner", "recipe", "notes")
    told = {name: record[name] for name in kept if name in record}
    return {
        "name": outcome.name,
        "seed": outcome.seed,
        "sha256": outcome.sha256,
        "folder": outcome.folder.name,
        "reason": outcome.reason,
        "images": outcome.images,
        "seconds": seconds(record) if record else None,
        **told,
    }
