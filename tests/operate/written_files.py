"""Commands that write one file, or a page and its pictures, under the faults of `faulty_runs`.

For `benchmarks/faults_runs.py`, and in short for `test_faults`. They are done as command lines, in processes
that have everything imported.
"""

import contextlib
import dataclasses
import io
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faulty_runs as runs
import torch
from bad_images import image_folder
from killed_runs import ARCH
from two_stages import EXAMPLE, Two

from surgeon.checkpoint import write
from surgeon.cli.main import cli
from surgeon.operate import convert as converting
from surgeon.operate import job_inputs, run, stored_plan
from surgeon.operate.images import trace_for_images
from surgeon.report import build

NETWORK = ("--arch", ARCH, "--input-size", "1,8,8")
INPUT, RECORD = "two.safetensors", "record.json"
HAS_ONNX = all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))
IMPORTED = (
    "matplotlib.backends.backend_svg", "surgeon.cli.apply", "surgeon.cli.convert", "surgeon.cli.finetune",
    "surgeon.cli.report",
)  # fmt: skip
STEPS = (
    (converting, "_program"), (converting, "_tried"), (converting, "check_input"), (torch.export, "export"),
    (torch.export, "save"), (torch.export, "load"), (torch.onnx, "export"), (run, "open_job"), (stored_plan, "encode"),
    (build, "open_networks"), (build, "render"), (write, "refuse_existing"), (write, "_put"), (write, "sync_folder"),
    (Path, "open"),
)  # fmt: skip
"""What of a command's work is a moment, before and after."""


class _Watched(io.BufferedWriter):
    """A file whose every write is a moment."""

    def __init__(self, path: Path, moments: runs.Moments) -> None:
        super().__init__(io.FileIO(path, "xb"))
        self._moments = moments

    def write(self, content: Any) -> int:
        self._moments.come("write")
        return super().write(content)


def watch(moments: runs.Moments) -> None:
    """Count the steps of these commands, and what they write; only in a process that ends with them."""
    opened = Path.open

    def open_file(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return _Watched(path, moments) if mode == "xb" else opened(path, mode, *arguments, **options)

    Path.open = open_file
    for owner, name in STEPS:
        setattr(owner, name, moments.watched(name, getattr(owner, name), after=True))


def prepared(*, with_onnx: bool = HAS_ONNX) -> None:
    """Import what the commands need, and do once for all what takes the first conversion long."""
    for name in IMPORTED:
        import_module(name)
    # A process that has more threads would leave them behind in those that are forked from it.
    torch.set_num_threads(1)
    program = converting._program(Two().eval(), EXAMPLE, None)
    with io.BytesIO() as file:
        converting._write_full(program, file)
        file.seek(0)
        torch.export.load(file).module()
    if with_onnx:
        import_module("onnxruntime")
        with io.BytesIO() as file:
            converting._write_onnx(program, file)


def with_record(folder: Path) -> None:
    """Leave the record of a run in the folder, with its result, for the report."""
    case = runs.cases(folder)["unlocked"][0]
    case.folder.mkdir(exist_ok=True)
    code = runs.code_of(runs.in_child(case, runs.Moments()))
    assert code == runs.DONE, runs.said(case)
    (case.folder / "result.json").rename(folder / RECORD)


def tuned_with_images(folder: Path) -> runs.Case:
    """Return a fine-tuning whose images are files, which are written to the folder."""
    image_folder(folder / "images", 4)
    words = [
        "finetune", "-o", "result.safetensors", "--data", str(folder / "images"), "--hold-out", "0.25", "--epochs", "2",
        "--save-every", "1", "--batch-size", "4", "--workers", "0", *NETWORK,
    ]  # fmt: skip
    return _case(folder / INPUT, folder, words, replaces=False)


def source(case: runs.Case) -> str:
    """Return the name of the file that a command reads."""
    return RECORD if case.name == "report" else INPUT


def cases(folder: Path) -> dict[str, list[runs.Case]]:
    """Return the commands by their names, each without and with something that it replaces.

    Args:
        folder: with the checkpoint of `faulty_runs.prepared`, and the record for the report; the results go there, too.
    """
    given = {
        "convert --full": (INPUT, "convert", "--full", "-o", "result.pt2", *NETWORK),
        "convert --onnx": (INPUT, "convert", "--onnx", "-o", "result.onnx", *NETWORK),
        "plan": (
            INPUT, "apply", "--method", "channel-regeneration", "--set", "threshold=2", "--dry-run", "--save-plan",
            "result.safetensors", *NETWORK,
        ),
        "report": (RECORD, "report", "-o", "result.html", "--figures", "figures", *NETWORK),
    }  # fmt: skip
    return {
        name: [_case(folder / read_from, folder, words, replaces) for replaces in (False, True)]
        for name, (read_from, *words) in given.items()
        if name != "convert --onnx" or HAS_ONNX
    }


def _case(source: Path, home: Path, words: list[str], replaces: bool) -> runs.Case:
    command, *options = [*words, *(["--overwrite"] if replaces else [])]
    place = home / f"{'-'.join(words[:2]).replace('--', '')}{int(replaces)}"

    def start(track: Any, say: Any) -> None:
        place.mkdir(exist_ok=True)
        os.chdir(place)
        # Other runs are told the graph of their one network, and this may be another.
        job_inputs.trace_for_images = trace_for_images
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            cli([command, str(source), *options], standalone_mode=False)

    case = runs.Case(command, place, start, watch=watch)
    return dataclasses.replace(case, previous=b"of an earlier run") if replaces else case
