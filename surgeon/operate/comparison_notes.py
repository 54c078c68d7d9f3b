"""What a reader of a comparison should know beside its figures and verdicts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgeon.operate.comparison import Row
from surgeon.operate.comparison_run import Outcome, Place, told_runs
from surgeon.operate.paired import LEVEL
from surgeon.operate.skipping import LEFT_OUT

CHANCE = (
    "Each interval is that of its method alone; the verdicts are adjusted for the number of methods (Holm), since the "
    "best of several looks good by chance."
)
LOOKING = (
    f"Seeds that are added after a look at the verdicts make false alarms more frequent than {100 * (1 - LEVEL):.0f} "
    "%: decide on their number before the first run."
)
RECALIBRATED = (
    "BatchNorm statistics are measured anew after an operation and not in the control, so a difference may come from "
    "that too; --no-recalibrate does without."
)
SKIPPED = (
    "Not all runs have left out the same images that cannot be read, as the notes of their records say: what they were "
    "trained and scored on differs."
)
SCOPE = (
    "The intervals are about other seeds on these data: the order, everything random, and which images are held out or "
    "taken by a limit. What other images would do, they do not say."
)


def notes(rows: Sequence[Row], outcomes: Sequence[Outcome], places: Sequence[Place], folder: Path) -> tuple[str, ...]:
    """Return the notes on a comparison.

    Args:
        rows: of its table.
        outcomes: of its runs.
        places: where they were done.
        folder: of the comparison, which may have runs of other methods.
    """
    stages = [stage for one in outcomes if one.record is not None for stage in one.record["stages"]]
    others = other_methods(folder, [place.recipe for place in places])
    more = f"The folder has runs of further methods, which the verdicts are not adjusted for: {', '.join(others)}."
    every = {
        CHANCE: sum(bool(row.verdict) for row in rows) > 1,
        more: bool(others),
        LOOKING: len({one.seed for one in outcomes}) > 1,
        RECALIBRATED: any(stage.get("name") == "recalibrated" for stage in stages),
        SKIPPED: len({_left_out(one.record) for one in outcomes if one.record is not None}) > 1,
        SCOPE: True,
    }
    return tuple(text for text, holds in every.items() if holds)


def _left_out(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a record says about the images that its run has left out: how many, and the first of them."""
    told = record.get("notes")
    return tuple(str(note) for note in told if LEFT_OUT in str(note)) if isinstance(told, list) else ()


def other_methods(folder: Path, recipes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names of the methods that were done in a folder on the same network with the same budget.

    Args:
        folder: of a comparison.
        recipes: of the runs that are compared now; their methods are left out.
    """
    now = json.loads(json.dumps(list(recipes), default=str))
    methods, budgets = [_method(recipe) for recipe in now], [_budget(recipe) for recipe in now]
    found: dict[str, str] = {}
    for told in told_runs(folder):
        recipe = told.get("recipe")
        if not isinstance(recipe, dict) or recipe.get("method") is None or _budget(recipe) not in budgets:
            continue
        if _method(recipe) not in methods:
            found.setdefault(json.dumps(_method(recipe), sort_keys=True), str(told.get("name")))
    return tuple(sorted(found.values()))


def _method(recipe: Mapping[str, Any]) -> list[Any]:
    return [recipe.get(name) for name in ("method", "options", "layers", "recalibrate", "partner")]


def _budget(recipe: Mapping[str, Any]) -> list[Any]:
    tuning = recipe.get("tuning")
    settings = {**tuning, "seed": None} if isinstance(tuning, dict) else None
    return [settings, *(recipe.get(name) for name in ("checkpoint", "arch", "init", "batch_size"))]
