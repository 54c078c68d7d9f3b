"""The networks behind a record: its input and its output, opened only where the files are those of the run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.bounded_json import parse
from surgeon.checkpoint import build, find_architecture, fit, read
from surgeon.checkpoint.architecture import names_file
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import image_size
from surgeon.errors import DataError, SurgeonError
from surgeon.operate.images import trace_for_images
from surgeon.report.panel import Missing
from surgeon.report.records import DEEPEST, MOST_VALUES, Run

ORIGINAL, CONTROL = "original", "control"
"""What a run's input is called in the charts, and the output of one without an operation (of the same seed)."""

HEADER_KEY = "surgeon"
NOT_IN_HEADER = ("edits", "epochs", "skipped")


@dataclass(frozen=True)
class Files:
    """Where the user says that networks are; None for where the record says.

    Attributes:
        checkpoint: the input of the first run.
        result: the output of the first run.
        arch: the architecture, the only one that may name a file of code.
        weights: the key of the input's weights, where its file holds several.
        input_size: `(C, H, W)` of the images, or None for the network's own.
    """

    checkpoint: Path | None = None
    result: Path | None = None
    arch: str | None = None
    weights: str | None = None
    input_size: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Networks:
    """The networks whose weights are shown.

    Attributes:
        models: by what they are called in the charts, the original first; in evaluation mode, on the CPU.
        graph: the coupling graph, which all of them share.
        original: name of the input in `models`; None where it could not be opened.
        result: likewise of the output.
        missing: networks that could not be opened, with the reason.
    """

    models: Mapping[str, nn.Module]
    graph: CouplingGraph
    original: str | None
    result: str | None
    missing: tuple[Missing, ...]


def open_networks(run: Run, control: Run | None, files: Files) -> Networks | tuple[Missing, ...]:
    """Open a run's input and output, and a control's output.

    Args:
        run: the run.
        control: one that fine-tuned the same network without an operation, or None.
        files: what the user gave.

    Returns:
        The networks, or why there is not a single one.
    """
    missing: list[Missing] = []
    beside = CONTROL
    if control is not None and control.seed != run.seed:
        beside = f"{CONTROL}, seed {'unknown' if control.seed is None else control.seed}"
    # A record may call its method anything.
    label = "result" if run.method in (ORIGINAL, beside) else run.method
    wanted = [(label, run, False, files.result)]
    if run.recipe.get("init") == "random":
        reason = "The run began with random weights, which no file keeps."
        missing.append(Missing(f"Weights of {ORIGINAL}", reason, "There is nothing to give."))
    else:
        wanted.insert(0, (ORIGINAL, run, True, files.checkpoint))
    if control is not None and control is not run:
        wanted.append((beside, control, False, None))
    opened: dict[str, nn.Module] = {}
    for name, of, is_input, given in wanted:
        try:
            opened[name] = _open(of, is_input, given, files, named=of is run)
        except SurgeonError as error:
            missing.append(Missing(f"Weights of {name}", error.problem, error.remedy))
    while opened:
        name, model = next(iter(opened.items()))
        try:
            graph = trace_for_images(model, torch.zeros(2, *image_size(model, files.input_size)))
        except SurgeonError as error:
            missing.append(Missing(f"Coupling graph of {name}", error.problem, error.remedy))
            break
        first = {key: tensor.shape for key, tensor in model.state_dict().items()}
        for other in list(opened):
            if {key: tensor.shape for key, tensor in opened[other].state_dict().items()} != first:
                del opened[other]
                reason = "Its tensors have other names or shapes than the original's."
                missing.append(Missing(f"Weights of {other}", reason, "Give records of one network."))
        original, result = (name if name in opened else None for name in (ORIGINAL, label))
        return Networks(opened, graph, original, result, tuple(missing))
    return tuple(missing)


def named_files(run: Run) -> list[Path]:
    """Return the files that a run's record names, as far as they are there."""
    return [path for named in (run.checkpoint, run.output) if (path := _found(run, named)) is not None]


def _open(run: Run, is_input: bool, given: Path | None, files: Files, named: bool) -> nn.Module:
    """Open a network of a run, and check that it is the run's.

    Args:
        run: the run.
        is_input: its input, or else its output.
        given: where the user says that it is, or None.
        files: what the user gave.
        named: there is an option by which to say where it is.

    Raises:
        SurgeonError: it is not found, not the run's, or cannot be opened.
    """
    option, what = ("--checkpoint", "input") if is_input else ("--result", "output")
    remedy = f"Name it with {option} FILE." if named else "Put it beside the record."
    told = run.checkpoint if is_input else run.output
    path = given if given is not None else _found(run, told)
    if path is None and run.comparison is not None and not is_input:
        raise DataError(
            f"The comparison kept no weights: the output of {run.title} is not shown.",
            "Compare again with --keep-weights into another folder (-o).",
        )
    if path is None:
        where = "The record names none" if told is None else f"There is no file {told}"
        raise DataError(f"{where}: the {what} of {run.title} is not shown.", remedy)
    checkpoint = read(path, _weights(run, files) if is_input else None)
    same = checkpoint.sha256 == run.sha256 if is_input else _is_result(checkpoint.metadata, run)
    if not same:
        proof = "SHA-256 is not the record's" if is_input else "header is not that of this record's output"
        raise DataError(f"{path} is not the {what} of {run.title}: its {proof}.", remedy)
    arch = files.arch
    if arch is None and run.arch is not None and not names_file(run.arch):
        arch = run.arch
    model = build(find_architecture(checkpoint, arch), checkpoint)
    fit(model, checkpoint)
    return model.eval()


def _weights(run: Run, files: Files) -> str | None:
    if files.weights is not None:
        return files.weights
    named = run.recipe.get("weights")
    return named if isinstance(named, str) else None


def _found(run: Run, named: str | None) -> Path | None:
    """Return a file that a record names: as it is, or from the record's own folder."""
    if named is None:
        return None
    folder = run.path.parent
    places = (folder / named, folder / Path(named).name, Path(named))
    # Names that no system takes are no files, either.
    return next((path for path in places if os.path.isfile(path)), None)


def _is_result(metadata: Mapping[str, str], run: Run) -> bool:
    """Whether a file's header says that it is what this record is of."""
    try:
        # As the record itself was read, or they would not be equal.
        text = metadata.get(HEADER_KEY, "null")
        header: Any = parse(text, most=MOST_VALUES, deepest=DEEPEST, constant=lambda name: None)
    except ValueError:
        return False
    return bool(header == {name: value for name, value in run.raw.items() if name not in NOT_IN_HEADER})
