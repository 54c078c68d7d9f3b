"""Edits of single filters and weights, as blocks of a layer's weight."""

import torch
from torch import Tensor

from surgeon.coupling.graph import Layer
from surgeon.edit.plan import Set
from surgeon.measure.filters import filter_rows


def side_by_side(weight: Tensor, filters: int) -> int:
    """Give how many weights of a filter lie side by side: all of them, or a kernel's in a transposed convolution.

    Args:
        weight: `[O, I, …]`, or `[I, O, …]` of a transposed convolution.
        filters: the axis that counts the filters.
    """
    return weight.shape[filters + 1 :].numel()


def filter_blocks(layer: Layer, weight: Tensor) -> Tensor:
    """Give the numbers of the blocks, of `side_by_side` weights each, that make up every filter.

    Args:
        layer: the layer.
        weight: its weight.

    Returns:
        LongTensor `[filters, blocks of a filter]`, in the order in which `filter_rows` has the weights.
    """
    shape = weight.shape[: layer.filters + 1]
    return filter_rows(torch.arange(shape.numel()).view(shape), layer)


def set_blocks(
    key: str, weight: Tensor, filters: int, blocks: Tensor, values: Tensor, what: str, size: int, *, held: bool = False
) -> Set:
    """Return the edit that gives blocks of a weight new values, in the weight's precision.

    Args:
        key: the weight's state-dict key.
        weight: see `side_by_side`.
        filters: the axis that counts the filters.
        blocks: LongTensor, numbers of blocks of the flattened weight.
        values: one for all, or one for each entry, block by block.
        what: what happens to them, in words.
        size: entries of a block.
        held: see `Set`.
    """
    places = torch.int32 if weight.numel() <= torch.iinfo(torch.int32).max else torch.int64
    columns = weight.shape[1] if filters else None
    numbers = values.flatten().to(weight.dtype)
    return Set(key, blocks.flatten().to(places), numbers, what, side_by_side(weight, filters), columns, size, held)
