"""The operation of a run done again, for the network in between that no file keeps."""

import copy
import dataclasses
from collections.abc import Sequence
from math import isclose
from typing import Any

from torch import nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Reinitialize
from surgeon.errors import DataError, SurgeonError
from surgeon.methods import make_config
from surgeon.operate.inputs import find_method
from surgeon.operate.plan import plan
from surgeon.operate.record import edit_rows
from surgeon.report.images import Images
from surgeon.report.panel import Missing
from surgeon.report.records import EditRow, Run
from surgeon.report.untrusted import REMEDY as RECORD_REMEDY
from surgeon.report.untrusted import printable
from surgeon.tuning import evaluate
from surgeon.tuning.freeze import untrained_names

TITLE = "Activations after the operation"
REORGANIZED, OPERATED = "reorganized", "operated"
SAME = 1e-3
"""Difference of two top-1 in percent, and relative one of two losses, that is none."""

REMEDY = "Give the same --data, --limit, --hold-out and --batch-size as the run had."


def operated_again(
    run: Run, original: nn.Module, graph: CouplingGraph, images: Images
) -> dict[str, nn.Module] | Missing:
    """Return copies of the input after the first operation of a run, before anything was trained.

    They are shown only if they are what the run had: the plan is made anew and has to have the record's edits, and the
    network that it gives has to have top-1 and loss of the record's stage `operated`.

    Args:
        run: the run.
        original: its input; it stays as it is.
        graph: its coupling graph.
        images: the run's.

    Returns:
        `operated`, and before it `reorganized`, where channels are merged and the freed ones are not yet started anew;
        or why there is none.
    """
    try:
        made = _made_again(run, original, graph, images)
        models = {}
        merged = tuple(edit for edit in made.edits if not isinstance(edit, Reinitialize))
        if 0 < len(merged) < len(made.edits):
            models[REORGANIZED] = _carried_out(original, dataclasses.replace(made, edits=merged))
        models[OPERATED] = _carried_out(original, made)
        _check_same(run, models[OPERATED], images)
    except SurgeonError as error:
        return Missing(TITLE, error.problem, error.remedy)
    return models


def _made_again(run: Run, original: nn.Module, graph: CouplingGraph, images: Images) -> Plan:
    """Make a run's first plan again.

    Raises:
        SurgeonError: it cannot be made, or is another than the record's.
    """
    method = find_method(run.method)
    if method.phases is not None or method.needs_partner:
        why = "edits the network during fine-tuning alone" if method.phases is not None else "mixes in another network"
        raise DataError(f"The method {run.method} {why}, so there is no such network.", "There is nothing to give.")
    targets = run.targets[:1] if method.scope == "target" else run.targets
    # What is no option of the method could be an argument of the function.
    config = make_config(method, run.options)
    options = {name: value for name, value in run.options.items() if value is not None and name != "every"}
    made = plan(
        original,
        run.method,
        targets,
        images.calibration,
        seed=run.seed or 0,
        example_input=next(iter(images.calibration))[0][:2] if method.restructures(config) else None,
        graph=graph,
        frozen=_untrained(run, original),
        track=images.track,
        **options,
    )
    rows = [_row(row) for row in edit_rows(made)]
    if not rows or rows != _rows_before_training(run.edits, len(rows)):
        raise DataError("The plan made anew has other edits than the record.", REMEDY)
    return made


def _check_same(run: Run, model: nn.Module, images: Images) -> None:
    """Check that a network answers as the record says of the run's.

    Raises:
        DataError: it does not, or the record does not say.
    """
    wanted = next((stage for stage in run.stages if stage.name == OPERATED), None)
    if wanted is None or wanted.top1 is None or wanted.loss is None or not images.real:
        raise DataError(
            "The record has no scores after the operation, by which a network made anew could be told to be the run's.",
            "Run with real images and --data.",
        )
    reached = evaluate(model, images.val, accelerator=images.accelerator, track=images.track)
    if not (isclose(reached.top1, wanted.top1, abs_tol=SAME) and isclose(reached.loss, wanted.loss, rel_tol=SAME)):
        raise DataError(
            f"The network operated on anew has a top-1 of {reached.top1:.2f} % and a loss of {reached.loss:.4f}, and "
            f"that of the record {wanted.top1:.2f} % and {wanted.loss:.4f}.",
            REMEDY,
        )


def _carried_out(original: nn.Module, made: Plan) -> nn.Module:
    model = copy.deepcopy(original)
    execute(model, made)
    return model


def _untrained(run: Run, original: nn.Module) -> frozenset[str]:
    """Return the parameters that the run's fine-tuning left as they were, and its operation with it.

    Raises:
        SurgeonError: the record has something else than patterns, or one that matches nothing.
    """
    patterns = run.tuning.get("freeze") or []
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise DataError(f"What {run.title} says was frozen is no list of patterns.", RECORD_REMEDY)
    return untrained_names(original, patterns) if run.tuning else frozenset()


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    first, last = row.get("rows", (0, 0))
    rows = f"{first}-{last - 1}" if last else ""
    return (row["tensor"], row["dim"], row["channels"], printable(row["positions"]), rows, row["what"])


def _rows_before_training(edits: Sequence[EditRow], count: int) -> list[tuple[object, ...]]:
    first = [edit for edit in edits if edit.epoch is None][:count]
    return [(edit.tensor, edit.dim, edit.channels, edit.positions, edit.rows, edit.what) for edit in first]
