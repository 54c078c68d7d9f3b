"""Records that are given twice."""

from collections.abc import Sequence

from surgeon.report.comparison import ComparisonRecord
from surgeon.report.records import Run
from surgeon.report.untrusted import in_folder

Records = tuple[Run, ...] | ComparisonRecord


def distinct(records: Sequence[Records]) -> tuple[list[Records], list[str]]:
    """Return the records without those that are there already, so that no run counts as two seeds.

    Args:
        records: of runs and comparisons. A run that a comparison has is left to it, wherever that stands.

    Returns:
        The others in their order, and a sentence for each that is left out.
    """
    comparisons: list[ComparisonRecord] = []
    for one in records:
        if isinstance(one, ComparisonRecord) and not any(_content(one) == _content(other) for other in comparisons):
            comparisons.append(one)
    known = [run for one in comparisons for run in one.runs]
    kept: list[Records] = []
    notes = []
    for one in records:
        if isinstance(one, ComparisonRecord):
            if any(one is other for other in comparisons):
                kept.append(one)
            else:
                notes.append(f"{in_folder(one.path)} is a comparison that was given twice, and counts once.")
            continue
        new = []
        for run in one:
            first = next((other for other in known if other.raw == run.raw), None)
            if first is None:
                new.append(run)
                known.append(run)
            else:
                notes.append(f"{in_folder(run.path)} is the record of {first.title} once more, and counts once.")
        if new:
            kept.append(tuple(new))
    return kept, notes


def _content(comparison: ComparisonRecord) -> tuple[object, ...]:
    return comparison.rows, [(run.title, run.raw) for run in comparison.runs]
