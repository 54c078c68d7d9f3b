"""Write a network as a program that runs without surgeon, and prove that it computes the same."""

import contextlib
import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf, prod
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from surgeon.checkpoint.write import refuse_existing, remove_leftovers, replacing
from surgeon.errors import OptionError, OutputError, TraceError
from surgeon.operate.images import check_input
from surgeon.operate.stopping import obeyed

Kind = Literal["onnx", "full"]
SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "full": ".pt2"}
INPUT, OUTPUT, BATCH = "images", "output", "batch"
"""Names of the program's input, of its answer, and of the first axis of both."""

TOLERANCE = 1e-5
"""Relative L2 distance of the answers that is rounding, in float32."""

REMEDY = "Rewrite the part of the network whose shapes or branches depend on the images, or use surgeon.load instead."

TRIED_BATCHES = (1, 3)
"""Sizes of the batches that a program of any batch is tried with: not those of the example it was made with."""

LITTLE = 1e-3
"""Relative L2 distance of the answers to two images below which a comparison proves little."""

LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights: an ONNX file, which is one message of Protocol Buffers, is smaller than 2 GiB."""


@dataclass(frozen=True)
class Conversion:
    """What was written, and how it was tried.

    Attributes:
        path: the file.
        kind: of what format.
        batch: images that it takes at once; None for any number.
        size: channels, height and width of an image.
        difference: the largest relative L2 distance of its answers to the network's, on random images.
        spread: the relative L2 distance of the network's own answers to two random images; where that is no more than
            rounding, equal answers prove little.
        tried: sizes of the batches that it was tried with.
        bytes: of the file.
        pickled: whether its weights are in torch's own format, with pickles; only older versions do so.
    """

    path: Path
    kind: Kind
    batch: int | None
    size: tuple[int, ...]
    difference: float
    spread: float
    tried: tuple[int, ...]
    bytes: int
    pickled: bool


Answers = Callable[[Tensor], list[Tensor]]


def check_conversion(path: Path, kind: Kind, overwrite: bool) -> None:
    """Refuse what can be refused before a network is opened; what killed conversions have left beside the path goes.

    Args:
        path: where to.
        kind: the format.
        overwrite: replace a file that exists.

    Raises:
        OptionError: a library that the format needs is not installed.
        OutputError: the path exists, has another suffix, or has no folder.
    """
    if path.suffix.lower() != SUFFIXES[kind]:
        raise OutputError(
            f"{path} has the suffix {path.suffix or '(none)'}, and a file of this kind ends in {SUFFIXES[kind]}.",
            f"Give a name that ends in {SUFFIXES[kind]}.",
        )
    remove_leftovers(path)
    refuse_existing(path, overwrite)
    if kind == "onnx":
        # The exporter writes with two of them, and the third runs the result.
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise OptionError(
                f"--onnx needs the packages onnx, onnxscript and onnxruntime, and {missing[0]} is not installed.",
                "Install them with `pip install '.[onnx]'`, or write a torch.export program with --full.",
            )


def convert(
    model: nn.Module, path: Path, kind: Kind, size: Sequence[int], *, batch: int | None = None, overwrite: bool = False
) -> Conversion:
    """Write a network in evaluation mode as a program, after its answers were found to be the network's.

    Args:
        model: takes images [B, C, H, W] in float32, on the CPU.
        path: where to; the file appears whole or not at all.
        kind: `onnx`, or `full` for a program of torch.export, that torch alone loads.
        size: C, H and W.
        batch: the number B of images that the program takes at once; None for any.
        overwrite: replace a file that exists.

    Raises:
        DataError: the network does not take such images.
        TraceError: it cannot be written as a program.
        OutputError: see `check_conversion`; or the program answers otherwise than the network.
        OptionError: a library that the format needs is not installed.
    """
    check_conversion(path, kind, overwrite)
    model.eval()
    check_input(model, torch.zeros(1, *size))
    with obeyed():
        return _converted(model, path, kind, size, batch, overwrite)


def _converted(
    model: nn.Module, path: Path, kind: Kind, size: Sequence[int], batch: int | None, overwrite: bool
) -> Conversion:
    program = _program(model, torch.zeros(batch or 2, *size), batch)
    write, open_again = {"onnx": (_write_onnx, _onnx_answers), "full": (_write_full, _full_answers)}[kind]
    tried = TRIED_BATCHES if batch is None else (batch, batch)
    with replacing(path, overwrite) as file:
        write(program, file)
        file.flush()
        difference, spread = _tried(model, open_again(Path(file.name)), size, tried)
        if not difference <= TOLERANCE:
            raise OutputError(
                f"The converted network's answers differ from the network's by {difference:.1e} of their length, more "
                f"than the {TOLERANCE:.0e} of rounding, and {path} is not written.",
                "Try the other format (--onnx or --full), or another version of torch.",
            )
        length, pickled = Path(file.name).stat().st_size, kind == "full" and _holds_pickles(Path(file.name))
    return Conversion(path, kind, batch, tuple(size), difference, spread, tried, length, pickled)


def _program(model: nn.Module, example: Tensor, batch: int | None) -> ExportedProgram:
    """Return what a network computes, with its weights; of where its code lies it says nothing."""
    try:
        program = _exported(model, example, batch)
    except Exception as error:  # The network's own code runs here and may raise anything.
        if batch is None and _takes_one_size_only(model, example):
            raise TraceError(
                "The network cannot be written as a program for batches of any size, only for those of one.",
                "Say how many images a batch has, for example --batch 1.",
            ) from error
        raise TraceError(f"The network cannot be written as a program: {_first_line(error)}.", REMEDY) from error
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    # The example takes more room than many a layer, and is all that would be pickled.
    program.example_inputs = None
    return program


def _exported(model: nn.Module, example: Tensor, batch: int | None) -> ExportedProgram:
    shapes = None if batch is not None else ({0: torch.export.Dim(BATCH, min=1)},)
    with _quiet():
        return torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)


def _takes_one_size_only(model: nn.Module, example: Tensor) -> bool:
    with contextlib.suppress(Exception):
        _exported(model, example, len(example))
        return True
    return False


def _write_full(program: ExportedProgram, file: BinaryIO) -> None:
    # A file that fails, or a signal in it, while torch's own code writes there would end the process at once.
    whole = io.BytesIO()
    with _quiet():
        torch.export.save(program, whole)
    file.write(whole.getbuffer())


def _holds_pickles(path: Path) -> bool:
    """Tell whether torch has put weights into a program in its own format, as versions such as 2.8 do."""
    with zipfile.ZipFile(path) as archive:
        parts = [name for name in archive.namelist() if name.endswith(".pt")]
        return any(archive.open(name).read(2) == b"PK" for name in parts)


def _full_answers(path: Path) -> Answers:
    with path.open("rb") as file, _quiet():
        module = torch.export.load(file).module()
    return lambda images: _tensors(module(images))


def _write_onnx(program: ExportedProgram, file: BinaryIO) -> None:
    held = sum(prod(tensor.shape) * tensor.element_size() for tensor in program.state_dict.values())
    if held > LARGEST_ONNX:
        raise OutputError(
            f"The network's weights take {held / 2**30:.1f} GiB, and an ONNX file holds less than 2.",
            "Write a torch.export program with --full.",
        )
    count = len(program.graph_signature.user_outputs)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT] if count == 1 else [f"{OUTPUT}_{number}" for number in range(count)],
                dynamic_shapes=({0: BATCH},) if program.range_constraints else None,
            )
    except Exception as error:  # The exporter raises errors of many kinds, its own and others.
        raise TraceError(
            f"The network cannot be written as ONNX: {_first_line(error)}.",
            "Write a torch.export program with --full.",
        ) from error
    assert converted is not None
    file.write(converted.model_proto.SerializeToString())


def _onnx_answers(path: Path) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(answer) for answer in session.run(None, {INPUT: images.numpy()})]


def _tried(model: nn.Module, answers: Answers, size: Sequence[int], batches: tuple[int, ...]) -> tuple[float, float]:
    """Return how far answers to random images are from the network's own at most, and those from each other."""
    generator = torch.Generator().manual_seed(0)
    firsts, largest = [], 0.0
    for count in batches:
        images = torch.randn(count, *size, generator=generator)
        with torch.no_grad():
            own = _tensors(model(images))
        others = answers(images)
        firsts.append([tensor[:1] for tensor in own])
        if [tensor.shape for tensor in own] != [tensor.shape for tensor in others]:
            return inf, 0.0
        largest = max(largest, _distance(own, others))
    return largest, _distance(firsts[0], firsts[-1])


def _distance(own: list[Tensor], others: list[Tensor]) -> float:
    """Return the largest relative L2 distance of tensors of the same shapes; infinite where it is no number."""
    largest = 0.0
    for one, other in zip(own, others, strict=True):
        distance = (one.double() - other.double()).norm() / one.double().norm().clamp_min(1e-30)
        largest = max(largest, distance.nan_to_num(nan=inf).item())
    return largest


def _tensors(answer: Any) -> list[Tensor]:
    """Return all tensors of an answer, in whatever it holds them."""
    return [leaf.detach() for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".:")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings, logs and prints, which are about themselves, off the user's screen."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
