"""The convolutions of a network with their invalid filters, for the methods that bring these back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.coupling.graph import Layer
from surgeon.edit.plan import Set
from surgeon.measure.invalid import invalid_filters
from surgeon.methods.base import Inputs
from surgeon.methods.weight_edits import set_blocks, side_by_side


@dataclass(frozen=True, eq=False)
class InvalidLayer:
    """A convolution of the targets with at least one invalid filter.

    Attributes:
        name: its module.
        key: state-dict key of its weight.
        weight: `[O, I, …]`, or `[I, O, …]` of a transposed convolution.
        filters: the axis that counts the filters.
        invalid: bool `[O]`.
    """

    name: str
    key: str
    weight: Tensor
    filters: int
    invalid: Tensor

    @property
    def numbers(self) -> Tensor:
        """The invalid filters' numbers, LongTensor, on the weight's device."""
        return torch.nonzero(self.invalid).flatten().to(self.weight.device)

    @property
    def weights_of_a_kernel(self) -> int:
        """How many weights a kernel has, 1 for a 1×1 kernel."""
        return self.weight.shape[2:].numel()

    @property
    def side_by_side(self) -> int:
        """How many weights of a filter lie side by side: all of them, or a kernel's in a transposed convolution."""
        return side_by_side(self.weight, self.filters)

    def edit(self, blocks: Tensor, values: Tensor, what: str, block_size: int) -> Set:
        """Return the edit that gives blocks of the flattened weight new values, in the weight's precision."""
        return set_blocks(self.key, self.weight, self.filters, blocks, values, what, block_size)

    def kernels(self, filters: Tensor, numbers: Tensor) -> Tensor:
        """Return the places of kernels among all of the weight.

        Args:
            filters: LongTensor, numbers of filters.
            numbers: LongTensor of a shape that broadcasts with it, numbers of kernels in them.
        """
        row, column = (filters, numbers) if self.filters == 0 else (numbers, filters)
        return row * self.weight.shape[1] + column


def invalid_layers(inputs: Inputs, alpha: float, beta: float) -> tuple[list[InvalidLayer], list[str]]:
    """Return the convolutions of the targets with invalid filters, and a sentence for each that is left alone.

    Filters are ranked over the convolutions of the whole network, whatever the targets are, so that a layer's invalid
    filters do not depend on what else is edited.

    Args:
        inputs: the network.
        alpha: share of all filters, 0 … 1.
        beta: share of each layer's filters, 0 … 1.
    """
    convolutions = [layer for layer in inputs.graph.layers if layer.convolution]
    skipped = [
        f"{layer.name}: left alone; {reason}."
        for layer in convolutions
        if inputs.selects(layer) and (reason := _reason(layer))
    ]
    ranked = {layer.writer.weight: layer for layer in convolutions if layer.writer is not None and not _reason(layer)}
    axes = {key: layer.filters for key, layer in ranked.items()}
    invalid = invalid_filters({key: inputs.tensors[key] for key in ranked}, axes, alpha, beta)
    found = [
        InvalidLayer(layer.name, key, inputs.tensors[key].detach(), layer.filters, invalid[key])
        for key, layer in ranked.items()
        if inputs.selects(layer) and bool(invalid[key].any())
    ]
    return found, skipped


def _reason(layer: Layer) -> str:
    """Return why a convolution is neither ranked nor edited, or nothing."""
    if layer.writer is None:
        return "its weight is computed from other tensors"
    if layer.filters == 1 and layer.groups > 1:
        return "the groups of a transposed convolution share an axis of the weight, so it does not count the filters"
    return ""
