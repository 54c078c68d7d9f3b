"""Scores of filters that are measured on labelled images, streamed batch by batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from surgeon.coupling.graph import Layer, Norm
from surgeon.errors import ArchitectureError, DataError, OptionError
from surgeon.measure.batches import Batches
from surgeon.measure.criteria import CRITERIA, activation, apoz, layerwise, oracle, taylor
from surgeon.measure.filters import filter_count, own_norms
from surgeon.modes import kept_modes
from surgeon.processes import add_up, add_up_by_name, everyones, own_count, shared
from surgeon.progress import Track, count_images, no_progress

Say = Callable[[str], None]
OnOutput = Callable[[str, Tensor], Tensor | None]
"""`on_output(layer, outputs)` is told of a layer's outputs and may return others in their place."""

MINUTE, HOUR = 60, 3600


def _silent(text: str) -> None:
    del text


def filter_scores(
    model: nn.Module,
    layers: Sequence[Layer],
    criterion: str,
    batches: Batches,
    *,
    device: torch.device | str,
    budget_bytes: int = 2**31,
    track: Track = no_progress,
    say: Say = _silent,
) -> dict[str, Tensor]:
    """Measure how strong the filters of layers are by a criterion that needs images.

    Outputs are read behind a layer's BatchNorm where it has one to itself, else at the layer, and always before an
    activation function; of a layer that runs several times in a forward pass, every run counts. The network runs in
    evaluation mode and is left as it was: modes, hooks, gradients, and every tensor. Of several processes each reads
    its share of the batches, and all get the scores over all images.

    Args:
        model: on `device` already.
        layers: layers of `graph.layers`.
        criterion: `activation`, `apoz`, `taylor` or `oracle`; see `criteria.py`.
        batches: `(images float32 [B, C, H, W], labels int64 [B])`.
        budget_bytes: the oracle keeps the images in memory if they fit into it, and else reads them for every filter.
        track: is told of every batch.
        say: is told, before the oracle starts, how long it will take.

    Returns:
        By layer, float32 `[filters]` on the CPU. A layer is not in it if it has no weight of its own, does not run in
        evaluation, or its output does not have one channel for each filter.

    Raises:
        OptionError: the criterion is unknown or needs no images.
        DataError: there is no image, a label is out of range, or the oracle would have to read an iterator twice.
        ArchitectureError: the network does not return one row of logits an image.
    """
    if criterion not in CRITERIA or not CRITERIA[criterion].needs_data:
        known = ", ".join(name for name, known in CRITERIA.items() if known.needs_data)
        raise OptionError(f"The criterion '{criterion}' is not measured on images.", f"Choose one of: {known}.")
    norms, tensors = own_norms(layers), model.state_dict(keep_vars=True)
    points = {
        layer.name: _point(model, layer, norms.get(layer.name), filter_count(layer, tensors))
        for layer in layers
        if layer.writer is not None
    }
    own = _Share(batches, track)
    with kept_modes(model):
        model.eval()
        if criterion == "oracle":
            return _oracle(model, points, _Kept(own, budget_bytes), torch.device(device), track, say)
        if criterion == "taylor":
            return _taylor(model, points, own, torch.device(device))
        score = {"activation": activation, "apoz": apoz}[criterion]
        return _of_outputs(model, points, score, own, torch.device(device))


@dataclass(frozen=True)
class _Share:
    """This process's share of the batches, under a display of how far the measurement has come."""

    whole: Batches
    track: Track

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.track(shared(self.whole, even=False), "measuring", own_count(count_images(self.whole)))


@dataclass(frozen=True)
class _Point:
    """Where the outputs of a layer's filters are read: a module's input or output, and the axis of the channels."""

    name: str
    module: nn.Module
    is_input: bool
    dim: int
    filters: int


def _point(model: nn.Module, layer: Layer, norm: Norm | None, filters: int) -> _Point:
    if norm is None:
        return _Point(layer.name, model.get_submodule(layer.name), False, 1 if layer.convolution else -1, filters)
    module = model.get_submodule(norm.running_mean.rpartition(".")[0])
    act = getattr(module, "act", None)
    if isinstance(act, nn.Module):
        # timm's BatchNormAct2d applies the activation function itself, as its last module.
        return _Point(layer.name, act, True, 1, filters)
    return _Point(layer.name, module, False, 1, filters)


@contextmanager
def _outputs_to(on_output: OnOutput, points: Iterable[_Point]) -> Iterator[None]:
    """Tell of the outputs at all points while the context lasts."""
    with ExitStack() as stack:
        for point in points:
            stack.callback(_hook(point, on_output).remove)
        yield


def _hook(point: _Point, on_output: OnOutput) -> RemovableHandle:
    def before(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        changed = on_output(point.name, inputs[0]) if _fits(point, inputs[0]) else None
        return None if changed is None else (changed, *inputs[1:])

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        return on_output(point.name, output) if _fits(point, output) else None

    module = point.module
    return module.register_forward_pre_hook(before) if point.is_input else module.register_forward_hook(after)


def _fits(point: _Point, output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() > 1 and output.shape[point.dim] == point.filters


def _flat(output: Tensor, dim: int) -> Tensor:
    """Return outputs as float32 `[N, filters, positions]`."""
    return (
        output.detach().float().movedim(dim, 1).flatten(2) if output.dim() > 2 else output.detach().float()[..., None]
    )


class _Means:
    """Means over images of one row of numbers for every filter."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, rows: Tensor) -> None:
        """Add rows `[N, filters]`."""
        total = rows.sum(0).cpu().double()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, torch.zeros((), dtype=torch.int64)) + len(rows)

    def result(self, order: Iterable[str]) -> dict[str, Tensor]:
        """Return the means over all processes, float32 `[filters]`."""
        sums, counts = add_up_by_name(self._sums), add_up_by_name(self._counts)
        return {name: (sums[name] / counts[name]).float() for name in order if name in sums}


def _of_outputs(
    model: nn.Module,
    points: Mapping[str, _Point],
    score: Callable[[Tensor], Tensor],
    batches: _Share,
    device: torch.device,
) -> dict[str, Tensor]:
    means, images_seen = _Means(), 0

    def add(name: str, output: Tensor) -> None:
        means.add(name, score(_flat(output, points[name].dim)))

    with torch.no_grad(), _outputs_to(add, points.values()):
        for images, _ in batches:
            model(images.to(device, non_blocking=True))
            images_seen += len(images)
    _check_any(*_added(images_seen))
    return means.result(points)


def _taylor(model: nn.Module, points: Mapping[str, _Point], batches: _Share, device: torch.device) -> dict[str, Tensor]:
    means, images_seen = _Means(), 0

    def add(name: str, output: Tensor) -> None:
        if not output.requires_grad:
            return
        # What follows may write into the output, as an in-place ReLU does.
        outputs = _flat(output, points[name].dim).clone()
        output.register_hook(lambda grad: means.add(name, taylor(outputs, _flat(grad, points[name].dim))))

    with torch.enable_grad(), _outputs_to(add, points.values()):
        for images, labels in batches:
            # With the gradient of the images asked for, all outputs have one, and no parameter gets any.
            leaf = images.to(device, non_blocking=True).detach().requires_grad_()
            logits, labels = _logits(model(leaf.clone()), labels.to(device))
            torch.autograd.grad(functional.cross_entropy(logits, labels, reduction="sum"), leaf)
            images_seen += len(images)
    _check_any(*_added(images_seen))
    return {name: layerwise(scores) for name, scores in means.result(points).items()}


class _Kept:
    """Batches that are kept in memory when first read, if they fit in every process."""

    def __init__(self, batches: _Share, budget_bytes: int) -> None:
        self._batches = batches
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._room = budget_bytes
        self.fits = True

    def first(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._batches:
            self._room -= images.nbytes + labels.nbytes
            self.fits = self._room >= 0
            if self.fits:
                self._kept.append((images, labels))
            else:
                self._kept.clear()
            yield images, labels
        # All processes begin to read the images at the same time, or none does.
        self.fits = all(everyones(self.fits))
        if not self.fits and isinstance(self._batches.whole, Iterator):
            raise DataError(
                "The oracle reads the images once for every filter, and they do not fit into memory.",
                "Give fewer images, or a DataLoader.",
            )

    def again(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._kept if self.fits else shared(self._batches.whole, even=False)


def _oracle(
    model: nn.Module, points: Mapping[str, _Point], batches: _Kept, device: torch.device, track: Track, say: Say
) -> dict[str, Tensor]:
    ran: set[str] = set()
    right = images_seen = 0
    start, computing = time.perf_counter(), 0.0
    with torch.no_grad(), _outputs_to(lambda name, output: ran.add(name), points.values()):
        for images, labels in batches.first():
            began = time.perf_counter()
            right += _right(model, images, labels, device)
            computing += time.perf_counter() - began
            images_seen += len(images)
    seconds = computing if batches.fits else time.perf_counter() - start
    own_images, images_seen, right = images_seen, *_added(images_seen, right)
    _check_any(images_seen)
    ran = set().union(*everyones(ran))
    places = [(point, filter_) for point in points.values() if point.name in ran for filter_ in range(point.filters)]
    say(
        f"The oracle evaluates the network on {images_seen:,} images for each of {len(places):,} filters: "
        f"about {_duration(seconds * len(places))}."
    )
    without = {name: torch.zeros(points[name].filters) for name in points if name in ran}
    with torch.no_grad():
        for images, labels, point, filter_ in track(_jobs(batches, places), "oracle", own_images * len(places)):
            with _outputs_to(_zero(point, filter_), [point]):
                without[point.name][filter_] += _right(model, images, labels, device)
    return {name: oracle(right / images_seen, add_up(count) / images_seen) for name, count in without.items()}


def _added(*numbers: int) -> list[int]:
    """Return the sums of numbers over all processes."""
    sums: list[int] = add_up(torch.tensor(numbers)).tolist()
    return sums


def _jobs(batches: _Kept, places: Iterable[tuple[_Point, int]]) -> Iterator[tuple[Tensor, Tensor, _Point, int]]:
    for point, filter_ in places:
        for images, labels in batches.again():
            yield images, labels, point, filter_


def _zero(point: _Point, filter_: int) -> OnOutput:
    """Return what zeroes one filter's output, which is what zeroing it with its BatchNorm's scale and shift does."""
    return lambda name, output: output.index_fill(point.dim, torch.tensor([filter_], device=output.device), 0)


def _right(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> int:
    logits, labels = _logits(model(images.to(device, non_blocking=True)), labels.to(device))
    hits = (logits.argmax(1) == labels) & ~logits.isnan().any(1)
    return int(hits.sum())


def _logits(output: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the network's logits, float32 `[B, classes]`, and labels that fit them."""
    logits = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if logits is None or logits.dim() != 2:
        returned = "no tensor" if logits is None else f"a tensor of shape {list(logits.shape)}"
        raise ArchitectureError(
            f"The network returns {returned}, not one row of class logits an image.",
            "Give a network that classifies images, with its classifier.",
        )
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise DataError(
            f"The label {int(wrong[0])} is out of range for {logits.shape[1]} classes.",
            "Give data whose classes are those of the network's classifier.",
        )
    return logits.float(), labels.to(torch.int64)


def _check_any(images: int) -> None:
    if not images:
        raise DataError("There is no image to measure filters on.", "Give data with at least one labelled image.")


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} minutes" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} hours"
