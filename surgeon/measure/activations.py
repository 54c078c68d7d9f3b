"""Class-representative activations: what each channel shows, on average, for the images of each class."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import DataError, LayerError
from surgeon.measure.accumulate import add_rows
from surgeon.measure.batches import Batches
from surgeon.modes import kept_modes
from surgeon.processes import add_up, add_up_by_name, own_count, shared
from surgeon.progress import Track, count_images, no_progress


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The mean output of a module for every class.

    Args:
        mean: `[P, *output.shape[1:]]` float32, a row for each of the P classes with images, in their order.
        count: `[C]` int64 on the CPU, the images of each class; zero marks a class that has no row.
    """

    mean: Tensor
    count: Tensor


@torch.no_grad()
def class_means(
    model: nn.Module,
    modules: Sequence[str],
    batches: Batches,
    num_classes: int,
    *,
    device: torch.device | str,
    budget_bytes: int = 2**31,
    track: Track = no_progress,
) -> dict[str, ClassMeans]:
    """Average the outputs of modules over the images of each class, in one pass and without keeping any output.

    The network is on `device` already, runs in evaluation mode and is left as it was. Sums are float32. Of several
    processes each reads its share of the batches, and all get the means over all images.

    Args:
        modules: names of modules that run once in a forward pass and give one tensor with one row an image.
        batches: `(images float32 [B, C, H, W], labels int64 [B] in 0 … num_classes - 1)`.
        num_classes: number of classes.
        budget_bytes: room for the sums on `device`; modules whose sums do not fit what is left of it are summed on
            the CPU.
        track: is told of every batch.

    Raises:
        LayerError: a module does not exist, does not run exactly once, or its output is not such a tensor.
        DataError: there is no image, or a label is out of range.

    Source: Baddar et al., Self-Reorganizing and Rejuvenating CNNs, eq. 1.
    """
    modules = tuple(dict.fromkeys(modules))
    count = torch.zeros(num_classes, dtype=torch.int64)
    sums = _Sums(num_classes, budget_bytes)
    with kept_modes(model), _outputs_to(sums, model, modules):
        model.eval()
        own = shared(batches, even=False)
        for images, labels in track(own, "measuring", own_count(count_images(batches))):
            count += _histogram(labels, num_classes)
            sums.start(labels, device)
            model(images.to(device, non_blocking=True))
            sums.check_complete(modules)
    if not int(add_up(count).sum()):
        raise DataError("There is no image to measure activations on.", "Give data with at least one labelled image.")
    present = count.nonzero().flatten()
    totals = add_up_by_name({name: sums.taken(name, present) for name in tuple(sums.total)})
    return {name: ClassMeans(_divided(totals[name], count[present]), count) for name in modules}


class _Sums:
    """One running sum of outputs for every module and every class that has come up, in the order in which they did."""

    def __init__(self, num_classes: int, budget_bytes: int) -> None:
        self.total: dict[str, Tensor] = {}
        self._num_classes = num_classes
        self._budget_bytes = budget_bytes
        self._reserved = 0
        self._row_of = torch.full((num_classes,), -1)
        self._classes = 0
        self._rows = torch.empty(0, dtype=torch.int64)
        self._seen: set[str] = set()

    def start(self, labels: Tensor, device: torch.device | str) -> None:
        """Begin with the images of a batch, whose outputs come from `device`."""
        labels = labels.cpu().long()
        new = labels.unique()
        new = new[self._row_of[new] < 0]
        self._row_of[new] = torch.arange(self._classes, self._classes + len(new))
        self._classes += len(new)
        self._rows = self._row_of[labels].to(device, non_blocking=True)
        self._seen = set()

    def taken(self, name: str, classes: Tensor) -> Tensor:
        """Give away the sums of a module, a row for each of these classes in their order: zeros for what never came up.

        Args:
            name: of the module.
            classes: `[P]` int64 in rising order on the CPU, all that came up among them.
        """
        total, rows = self.total.pop(name), self._row_of[classes]
        if torch.equal(rows, torch.arange(len(rows))):
            return total[: len(rows)]
        ordered = total[rows.clamp(min=0).to(total.device)]
        ordered[(rows < 0).to(total.device)] = 0
        return ordered

    def add(self, name: str, output: Any) -> None:
        if name in self._seen:
            raise LayerError(
                f"The module '{name}' runs more than once in a forward pass.",
                "Choose the block that contains it, or a module that runs once.",
            )
        self._seen.add(name)
        total = self._total(name, self._checked(name, output))
        add_rows(total.view(len(total), -1), self._rows.to(total.device), output.reshape(len(output), -1).to(total))

    def check_complete(self, modules: Iterable[str]) -> None:
        for name in modules:
            if name not in self._seen:
                raise LayerError(
                    f"The module '{name}' does not run in a forward pass.", "Choose a module that computes an output."
                )

    def _checked(self, name: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            given = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise LayerError(
                f"The output of module '{name}' is no floating-point tensor but {given}.",
                "Choose a module inside or after it that gives one tensor.",
            )
        if output.dim() < 2 or len(output) != len(self._rows):
            raise LayerError(
                f"The output of module '{name}' has shape {list(output.shape)}, not one row for each of the"
                f" {len(self._rows)} images.",
                "Choose a module whose output keeps the images apart.",
            )
        return output

    def _total(self, name: str, output: Tensor) -> Tensor:
        known = self.total.get(name)
        if known is None:
            device = self._place((self._num_classes, *output.shape[1:]), output.device)
            known = torch.zeros(self._classes, *output.shape[1:], device=device)
        if known.shape[1:] != output.shape[1:]:
            raise LayerError(
                f"The output of module '{name}' changes its shape from batch to batch, now {list(output.shape)}.",
                "Give images of one size.",
            )
        if len(known) < self._classes:
            # Twice as many, so that each is moved a few times at most.
            rows = min(max(self._classes, 2 * len(known)), self._num_classes)
            grown = torch.zeros(rows, *output.shape[1:], device=known.device)
            grown[: len(known)] = known
            known = grown
        self.total[name] = known
        return known

    def _place(self, shape: tuple[int, ...], device: torch.device) -> torch.device:
        """Return where sums of all classes would fit: few may have come up yet."""
        size = torch.Size(shape).numel() * torch.float32.itemsize
        if self._reserved + size > self._budget_bytes:
            return torch.device("cpu")
        self._reserved += size
        return device


@contextmanager
def _outputs_to(sums: _Sums, model: nn.Module, modules: Sequence[str]) -> Iterator[None]:
    found = {name: _module(model, name) for name in modules}
    handles = [module.register_forward_hook(_hook(sums, name)) for name, module in found.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise LayerError(
            f"The network has no module named '{name}'.", "Choose one of the names that `surgeon inspect` lists."
        ) from error


def _hook(sums: _Sums, name: str) -> Callable[[nn.Module, Any, Any], None]:
    def add_output(module: nn.Module, inputs: Any, output: Any) -> None:
        sums.add(name, output)

    return add_output


def _histogram(labels: Tensor, num_classes: int) -> Tensor:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise DataError(
            f"The label {int(wrong[0])} is out of range for {num_classes} classes.",
            "Give data whose classes are those of the network's classifier.",
        )
    return torch.bincount(labels, minlength=num_classes).cpu()


def _divided(total: Tensor, count: Tensor) -> Tensor:
    return total.div_(count.clamp(min=1).to(total.device).view(-1, *[1] * (total.dim() - 1)))
