"""Trace and prove architectures, one a line of standard input, and answer each with one JSON line."""

import dataclasses
import hashlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import zoo_catalogue
import zoo_coverage
from torch import nn
from torch.overrides import TorchFunctionMode

import surgeon
from surgeon.coupling import CouplingGraph
from surgeon.edit.verify import Proof, prove, randomize
from surgeon.errors import SurgeonError

FAILURES = (
    SurgeonError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
LARGEST_PROOF = 100_000_000
"""Networks with more parameters are traced without weights, and not proven."""
SEEDS = (0, 1, 2)


class _Part(nn.Module):
    """A submodule under its own name, so that tensors keep their names in the whole network."""

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self._path = path
        self.add_module(path, model.get_submodule(path))

    def forward(self, *arguments: torch.Tensor) -> Any:
        return self.get_submodule(self._path)(*arguments)


class _KeepDouble(TorchFunctionMode):
    """Let networks that cast to float32 inside stay in float64, so that rounding does not hide an error."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **(kwargs or {}))


def main() -> None:
    """Answer every line of standard input, an entry of the catalogue, with a result."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    warm_up()
    tracer = fingerprint()
    for line in sys.stdin:
        question = json.loads(line)
        skipped = question.pop("skipped_sizes", ())
        answers.write(json.dumps(examine(zoo_catalogue.Entry(**question), skipped) | {"tracer": tracer}) + "\n")
        answers.flush()


def examine(entry: zoo_catalogue.Entry, skipped_sizes: Collection[int] = ()) -> dict[str, Any]:
    """Return everything that is to be known about one architecture, as JSON.

    Args:
        entry: the architecture.
        skipped_sizes: image sizes not to try, because relatives of the architecture did not take them.
    """
    start = time.perf_counter()
    row: dict[str, Any] = dataclasses.asdict(entry) | {"status": "failed", "message": "", "attempts": []}
    try:
        specimen, graph, clock = _trace_smallest(entry, skipped_sizes, row["attempts"])
        row |= clock | {"input": specimen.shape, "groups": len(graph.groups)}
        row |= {"channels": sum(group.size for group in graph.groups)}
        row |= {"modules": len(graph.outputs.names)}
        row |= dataclasses.asdict(zoo_coverage.measure(specimen.model, specimen.submodule, graph))
        row |= _judge(entry, specimen, graph)
    except FAILURES as error:
        row["message"] = describe(error)
    return row | {"total_seconds": round(time.perf_counter() - start, 2)}


def _trace_smallest(
    entry: zoo_catalogue.Entry, skipped_sizes: Collection[int], attempts: list[str]
) -> tuple[zoo_catalogue.Specimen, CouplingGraph, dict[str, Any]]:
    """Trace the network at the smallest image size that it takes."""
    meta = entry.parameters > LARGEST_PROOF
    candidates = (None,) if meta else zoo_catalogue.sizes(entry.name)
    for size in (size for size in candidates if size not in skipped_sizes):
        try:
            specimen = zoo_catalogue.build(entry.name, size, meta)
            graph, clock = timed_trace(specimen)
            return specimen, graph, clock | {"size": size}
        except FAILURES as error:
            if size is None:
                raise
            attempts.append(f"{size}: {describe(error)}")
    raise AssertionError("The last candidate either returns or raises.")


def timed_trace(specimen: zoo_catalogue.Specimen) -> tuple[CouplingGraph, dict[str, Any]]:
    """Return the graph, with the seconds (wall clock and processor) it took and the number of operations."""
    with _watched_exports() as exports:
        wall, processor = time.perf_counter(), time.process_time()
        graph = surgeon.trace(specimen.model, specimen.example, submodule=specimen.submodule)
        clock = {"wall": round(time.perf_counter() - wall, 4), "seconds": round(time.process_time() - processor, 4)}
    return graph, clock | {
        "export_seconds": round(sum(export.seconds for export in exports), 4),
        "ops": exports[0].operations,
        "all_ops": sum(export.operations for export in exports),
        "inputs": sum(export.inputs for export in exports),
    }


@dataclass(frozen=True)
class _Export:
    """What one call of torch.export took and gave: processor time, operations, and tensors that they read."""

    seconds: float
    operations: int
    inputs: int


@contextmanager
def _watched_exports() -> Iterator[list[_Export]]:
    """Collect figures of every program that is exported meanwhile."""
    exports: list[_Export] = []
    export = torch.export.export

    def watched(*arguments: Any, **keywords: Any) -> torch.export.ExportedProgram:
        start = time.process_time()
        program = export(*arguments, **keywords)
        seconds = time.process_time() - start
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        exports.append(_Export(seconds, len(nodes), sum(len(node.all_input_nodes) for node in nodes)))
        return program

    with mock.patch.object(torch.export, "export", watched):
        yield exports


def _judge(entry: zoo_catalogue.Entry, specimen: zoo_catalogue.Specimen, graph: CouplingGraph) -> dict[str, Any]:
    if entry.parameters > LARGEST_PROOF:
        return {"status": "traced only"}
    proof = proven(specimen, graph)
    outcome = {
        "difference": proof.difference,
        "counter_difference": proof.counter_difference,
        "rescaled_difference": proof.rescaled_difference,
        "factors": proof.factors,
    }
    if not graph.groups:
        return outcome | {"message": "The graph has no free group, so that there is nothing to prove."}
    if not proof.holds:
        moved = f"permuting {proof.counter_member} alone gives {proof.counter_difference}"
        return outcome | {"message": f"The proof does not hold: difference {proof.largest}; {moved}."}
    return outcome | {"status": "proven"}


def proven(specimen: zoo_catalogue.Specimen, graph: CouplingGraph) -> Proof:
    """Return the proof of a graph, with the first seed whose random network has finite outputs."""
    model = _Part(specimen.model, specimen.submodule) if specimen.submodule else specimen.model
    with _KeepDouble():
        for seed in SEEDS[:-1]:
            try:
                return prove(model, graph, specimen.example, seed)
            except SurgeonError:
                continue
        return prove(model, graph, specimen.example, SEEDS[-1])


def fingerprint() -> str:
    """Return a number that changes with the source of the tracer and of the proof."""
    folder = Path(surgeon.__file__).parent
    sources = [*sorted((folder / "coupling").rglob("*.py")), folder / "edit" / "verify.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def warm_up() -> None:
    """Trace a tiny network, so that no architecture pays for the first use of the exporter."""
    surgeon.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)), torch.randn(2, 3, 8, 8))


def initialize(model: nn.Module) -> None:
    """Give a network random weights of a usual size."""
    randomize(model, torch.Generator().manual_seed(SEEDS[0]))


def describe(error: BaseException) -> str:
    """Return an error's first line, and for other errors than refusals where it arose."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    place = f"{frame.filename.rpartition('/site-packages/')[2]}:{frame.lineno}"
    return text if isinstance(error, SurgeonError) else f"{type(error).__name__}: {text} [{place}]"


if __name__ == "__main__":
    main()
