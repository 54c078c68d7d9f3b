"""How many parameters and operations a network has at other widths, counted without running it."""

from collections.abc import Mapping
from math import prod

from torch import Tensor, nn

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Member
from surgeon.measure.utilization import FLOPS_PER_WEIGHT

Growth = list[tuple[Member, int]]
"""Members of one tensor, each with the number of positions that its axis gains, or loses."""


def cost(graph: CouplingGraph, tensors: Mapping[str, Tensor], sizes: Mapping[ChannelGroup, int]) -> tuple[int, int]:
    """Return the number of parameters, and of floating-point operations of the layers for one image, at other widths.

    Counted like `utilization`: every parameter once, and for each weight of a layer and each of its positions one
    multiplication and one addition. Weights that are computed from others (in a layer with cross-attention, say) are
    counted at the widths that they have.

    Args:
        graph: the network's coupling graph.
        tensors: `model.state_dict(keep_vars=True)`.
        sizes: the number of channels of groups that get another one; the others keep theirs.
    """
    growth: dict[str, Growth] = {}
    for group, size in sizes.items():
        for member in group.members:
            growth.setdefault(member.tensor, []).append((member, (size - group.size) * member.positions.shape[1]))
    keys: dict[int, str] = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            keys.setdefault(id(tensor), key)
    entries = {key: _entries(tensors[key], growth.get(key, [])) for key in keys.values()}
    weights = [(layer.positions, layer.writer.weight) for layer in graph.layers if layer.writer is not None]
    operations = sum(
        positions * (entries[key] if key in entries else _entries(tensors[key], growth.get(key, [])))
        for positions, key in weights
    )
    computed = sum(layer.computed for layer in graph.layers)
    return sum(entries.values()), FLOPS_PER_WEIGHT * (operations + computed)


def _entries(tensor: Tensor, growth: Growth) -> int:
    """Return the number of a tensor's entries at the new widths."""
    lengths = list(tensor.shape)
    slices: dict[tuple[int, int], int] = {}
    for member, gained in growth:
        if member.rows is None:
            lengths[member.dim] += gained
        else:
            rows = (member.rows.start, member.rows.stop)
            slices[rows] = slices.get(rows, 0) + gained
    if not slices:
        return prod(lengths)
    # Each conv group of a grouped convolution has rows and columns of its own.
    dim = next(member.dim for member, _ in growth if member.rows is not None)
    size = next(stop - start for start, stop in slices)
    gained_rows = _gained_rows(growth, size)
    by_rows = sum((size + gained_rows.get(start // size, 0)) * gained for (start, _), gained in slices.items())
    return prod(lengths[1:dim] + lengths[dim + 1 :]) * (lengths[0] * lengths[dim] + by_rows)


def _gained_rows(growth: Growth, size: int) -> dict[int, int]:
    """Return by the number of the conv group, each of `size` rows, how many rows it gains."""
    result: dict[int, int] = {}
    for member, gained in growth:
        if member.dim == 0 and gained:
            numbers, counts = (member.positions // size).unique(return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                result[number] = result.get(number, 0) + gained * count // member.positions.numel()
    return result
