"""Compare methods with the same fine-tuning without them: every run once, wherever it is done, and the table of all."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgeon.checkpoint import write_text
from surgeon.checkpoint.display import listed
from surgeon.checkpoint.write import remove_leftovers
from surgeon.errors import OutputError
from surgeon.operate.comparison import Comparison, compared
from surgeon.operate.comparison_checks import check_runs
from surgeon.operate.comparison_claim import make_folder
from surgeon.operate.comparison_notes import notes
from surgeon.operate.comparison_run import RESULT, Hooks, Outcome, Place, Run
from surgeon.operate.told import read_told

COMPARISON = "comparison.json"
WAIT = 2.0
"""Seconds until it is looked again whether the runs of other processes have ended."""


def compare(
    runs: Sequence[Run],
    folder: Path,
    hooks: Hooks,
    *,
    keep_weights: bool = False,
    recipe: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Do the runs of a comparison that are not done yet, and return what came of all of them.

    Each run has a folder of its own in the comparison's, by its name and the hash of its recipe, where it is found
    again: by a later call, which may have more methods or seeds, and by other processes, on other computers as well,
    that work in the same folder at the same time. One that was interrupted goes on from its last state.

    Args:
        runs: of the control, which is named `CONTROL` and operates on nothing, and of every method, for the same seeds.
            All of a seed have the same fine-tuning.
        folder: where the results go; made where it is missing.
        hooks: are told how the runs go.
        keep_weights: leave the weights of the runs that are done now in their folders.
        recipe: what the comparison's record says of how to repeat it.
        overwrite: replace the record of an earlier comparison in the folder even where it has runs that this one has
            not; the runs themselves stay.

    Returns:
        The comparison, which is also in `comparison.json` in the folder.

    Raises:
        SurgeonError: a method, an option, a layer or another input cannot be used, which is refused before the first
            run; or the folder cannot be written to, or holds the record of a comparison of other runs. A run that fails
            is no error.
    """
    _earlier(folder)
    known = check_runs(runs, folder, hooks.track, hooks.say)
    make_folder(folder)
    remove_leftovers(folder / COMPARISON)
    places = [Place(run, folder, one.terms, one.images) for run, one in zip(runs, known, strict=True)]
    _check_earlier(folder, places, overwrite)
    before = sum(place.outcome() is not None for place in places)
    if before:
        hooks.say(f"{before} of {len(places)} runs are done already.")
    outcomes = _settled(places, hooks, keep_weights)
    kept = [place.folder.name for place in places if (one := place.outcome()) is not None and one.reason is not None]
    if kept:
        hooks.say(f"Runs that failed are not tried again, unless their folders are removed: {', '.join(kept)}.")
    if keep_weights and not all((one.folder / RESULT).exists() for one in outcomes if one.record is not None):
        hooks.say("Runs that were done before without --keep-weights have no weights any more.")
    rows, words = compared(outcomes)
    of_all = known[0]
    comparison = Comparison(
        rows=rows,
        outcomes=tuple(outcomes),
        verdict=words,
        seeds=tuple(dict.fromkeys(run.job.seed for run in runs)),
        arch=of_all.arch,
        checkpoint=of_all.source,
        data=of_all.data,
        epochs=runs[0].job.epochs,
        recipe=recipe or {},
        notes=notes(rows, outcomes, places, folder),
    )
    # Another process may have compared other runs meanwhile.
    _check_earlier(folder, places, overwrite)
    _write(comparison, folder / COMPARISON)
    return comparison


def _write(comparison: Comparison, path: Path) -> None:
    try:
        write_text(path, comparison.to_json(), overwrite=True)
    except OutputError:
        # Another process that began just now may have taken the half file for what a killed one has left.
        write_text(path, comparison.to_json(), overwrite=True)


def _settled(places: Sequence[Place], hooks: Hooks, keep_weights: bool) -> list[Outcome]:
    """Return what came of the runs, in their order: those that no other process is at are done first."""
    outcomes: dict[Path, Outcome] = {}
    waiting = False
    while True:
        before = len(outcomes)
        for place in places:
            if place.folder not in outcomes:
                outcome = place.settle(hooks, keep_weights=keep_weights)
                if outcome is not None:
                    outcomes[place.folder] = outcome
        left = [place for place in places if place.folder not in outcomes]
        if not left:
            return [outcomes[place.folder] for place in places]
        if len(outcomes) == before:
            if not waiting:
                names = ", ".join(f"{place.run.name} (seed {place.run.job.seed})" for place in left)
                hooks.say(f"Waiting for runs that other processes are doing: {names}.")
            waiting = True
            time.sleep(WAIT)


def _earlier(folder: Path) -> set[str]:
    """Return the names of the runs' folders that the comparison in a folder is of; none without one.

    Raises:
        OutputError: it is no folder, or the file of that name is none of this kind.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder, and the results belong into one.", "Write elsewhere with -o.")
    try:
        content = read_told(folder / COMPARISON)
    except FileNotFoundError:
        return set()
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "surgeon" not in content or "rows" not in content:
        raise OutputError(f"{folder / COMPARISON} is not the record of a comparison.", "Write elsewhere with -o.")
    runs = content.get("runs")
    return {str(run.get("folder")) for run in (runs if isinstance(runs, list) else []) if isinstance(run, dict)}


def _check_earlier(folder: Path, places: Sequence[Place], overwrite: bool) -> None:
    """Refuse to replace the record of a comparison that has runs which are none of these places."""
    lost = _earlier(folder) - {place.folder.name for place in places}
    if lost and not overwrite:
        raise OutputError(
            f"{folder / COMPARISON} is the record of a comparison with other runs: {listed(sorted(lost))}.",
            "Name its methods and seeds too, write elsewhere with -o, or pass --overwrite to replace the record; the "
            "runs stay.",
        )
