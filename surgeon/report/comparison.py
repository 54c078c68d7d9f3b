"""The record of a comparison: its runs, and their differences to the control."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import DataError
from surgeon.report.drawing import INK, SERIES, picture, sheet
from surgeon.report.panel import Missing, Panel, Table, brief
from surgeon.report.records import Run, decoded, run_of
from surgeon.report.untrusted import REMEDY, Entry, in_folder

RECORD = "result.json"
"""The record of each run, in its own folder beside the comparison's."""

OF_ALL = ("surgeon", "versions", "arch", "checkpoint", "data")
"""What all runs of a comparison have in common."""

SAME = ("method", "seed", "stages")
"""What a run's own record and the comparison's both say of it."""

MOST_RUNS = 1000
KEY, TITLE = "differences", "Differences to the control"

BAR, MARGIN = 0.4, 0.9
"""Inches: of a row, and of what is around all of them."""


@dataclass(frozen=True)
class Compared:
    """What the runs of one name achieved; see `surgeon.operate.comparison.Row`."""

    name: str
    top1: float | None
    deviation: float | None
    count: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


@dataclass(frozen=True)
class ComparisonRecord:
    """The record of a comparison, every value checked.

    Attributes:
        path: its file.
        runs: those that did not fail, each with what its own record says beside what the comparison's does.
        rows: by name.
        verdict: in a sentence.
        failed: runs that failed, with the reason.
        recipe: the options that do the same again.
        notes: what a reader of the figures should know.
    """

    path: Path
    runs: tuple[Run, ...]
    rows: tuple[Compared, ...]
    verdict: str
    failed: tuple[Missing, ...]
    recipe: Mapping[str, Any]
    notes: tuple[str, ...]


def read_records(path: Path) -> tuple[Run, ...] | ComparisonRecord:
    """Read the record of a run, or of a comparison.

    Args:
        path: a .json file that `surgeon apply`, `finetune` or `compare` wrote.

    Raises:
        DataError: it cannot be read, is too large, or is neither.
    """
    value = decoded(path)
    return _comparison(value, path) if {"surgeon", "rows", "runs"} <= value.keys() else (run_of(value, path),)


def differences_charts(comparisons: Sequence[ComparisonRecord]) -> tuple[Panel, ...]:
    """Return a chart for every comparison, with keys that differ."""
    if len(comparisons) == 1:
        return (differences_chart(comparisons[0]),)
    return tuple(
        differences_chart(one, f"{KEY}-{number}", f"{TITLE} ({in_folder(one.path)})")
        for number, one in enumerate(comparisons, start=1)
    )


def differences_chart(comparison: ComparisonRecord, key: str = KEY, title: str = TITLE) -> Panel:
    """Return the mean difference of every method's top-1 to the control's, with its confidence interval.

    Args:
        comparison: the record.
        key: see `Picture`, like `title`.
    """
    known = [(row, row.difference) for row in comparison.rows if row.difference is not None]
    rows = tuple(
        (row.name, row.top1, row.deviation, row.count, row.difference, row.low, row.high, row.p_value, row.verdict)
        for row in comparison.rows
    )
    if not known:
        return Missing(title, "No run of a method has a control of the same seed.", "Run surgeon compare once more.")
    with sheet(MARGIN + BAR * len(known)) as figure:
        axes = figure.add_subplot()
        for place, (row, difference) in enumerate(known):
            if row.low is not None and row.high is not None:
                axes.plot((row.low, row.high), (place, place), color=SERIES[0], linewidth=2, marker="|", markersize=10)
            axes.plot([difference], [place], color=SERIES[0], marker="o", markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(known)), [brief(row.name) for row, _ in known])
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.set_xlabel("difference of top-1 to the control's, in percent points")
        told = [f"{row.name} {difference:+.2f}" for row, difference in known]
        caption = (
            f"Mean difference of top-1 to the control's, seed by seed, in percent points: {', '.join(told)}. Lines are "
            "95 % confidence intervals; a method without one has too few seeds, or differences that are all the same. "
            f"{comparison.verdict}"
        )
        columns = (
            "method", "top-1 %", "standard deviation", "seeds", "difference", "interval from", "to", "p, adjusted",
            "verdict",
        )  # fmt: skip
        return picture(figure, key, title, caption, Table(columns, rows))


def _comparison(value: Mapping[str, Any], path: Path) -> ComparisonRecord:
    record = Entry(value, str(path))
    runs, failed = [], []
    entries = record.get("runs").entries()
    if max(len(entries), len(record.get("rows").entries())) > MOST_RUNS:
        raise DataError(f"The comparison {path} has more than {MOST_RUNS} runs.", REMEDY)
    for entry in entries:
        name, seed = entry.get("name").name(), entry.get("seed").count()
        reason = entry.get("reason")
        if reason.value is not None:
            failed.append(Missing(f"{name}, seed {seed}", reason.text(), "The others are compared without it."))
            continue
        title = f"{name}, seed {seed}"
        runs.append(dataclasses.replace(_run(entry, value, path), name=name, comparison=path, title=title))
    if len({run.title for run in runs}) < len(runs):
        raise DataError(f"The comparison {path} has two runs of one name and seed.", REMEDY)
    if not runs:
        raise DataError(f"No run of the comparison {path} came to its end.", REMEDY)
    return ComparisonRecord(
        path=path,
        runs=tuple(runs),
        rows=tuple(_row(row) for row in record.get("rows").entries()),
        verdict=record.get("verdict").text(),
        failed=tuple(failed),
        recipe={} if value.get("recipe") is None else record.get("recipe").named(lambda node: node.plain()),
        notes=record.get("notes").texts(),
    )


def _run(entry: Entry, value: Mapping[str, Any], path: Path) -> Run:
    """Return a run by its own record, which knows the edits, or else by what the comparison says of it.

    Another run's record may have got into the folder: it is the run's own only if both say the same of the stages.
    """
    # No more than a name is taken of what the record says, so that it leads to no other folder.
    folder = Path(entry.get("folder").name()).name
    own = path.parent / folder / RECORD
    if folder not in ("", "..") and os.path.isfile(own):
        found = decoded(own)
        if all(found.get(name) == entry.value.get(name) for name in SAME):
            return run_of(found, own)
    return run_of({**{name: value[name] for name in OF_ALL if name in value}, **entry.value}, path)


def _row(row: Entry) -> Compared:
    top1 = row.get("figures").get("top1")
    difference = row.get("difference")
    paired = difference.value is not None
    mean, low, high = (difference.get(name).figure() if paired else None for name in ("mean", "low", "high"))
    return Compared(
        name=row.get("name").name(),
        top1=top1.get("mean").figure(),
        deviation=top1.get("deviation").figure(),
        count=top1.get("count").count(),
        difference=mean,
        low=low,
        high=high,
        p_value=row.get("p_value").figure(),
        verdict=row.get("verdict").text(),
    )
