"""How much of a network's capacity is in use, told from its weights alone."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Layer, Member
from surgeon.measure.filters import filter_rows, is_depthwise
from surgeon.measure.invalid import invalid_filters, invalid_kernels
from surgeon.measure.weights import orthogonality_sums

DEAD_SHARE = 0.01
"""A channel is dead below this share of its BatchNorm's largest scale (neural rejuvenation)."""

INHIBITED = 0.01
"""A channel is inhibited below this scale (channel regeneration)."""

ALPHA, BETA, GAMMA = 0.2, 0.3, 0.1
"""The conditions on weak filters and kernels (kernel reactivation)."""

FLOPS_PER_WEIGHT = 2
"""One multiplication and one addition for every weight and position."""

Dead = Mapping[str, list[tuple[Member, Tensor]]]
"""By state-dict key, the members of groups with dead channels, each with the positions of these."""


@dataclass(frozen=True)
class LayerUtilization:
    """What a layer's weights and its BatchNorm show; None where that cannot be told.

    Attributes:
        name: the module.
        filters: number of filters; None where the weight is computed from other tensors, and then there is nothing
            else either but its operations, all of which are in use.
        dead: filters with `|γ| < 0.01 · max|γ|`, or zero, of the BatchNorm right behind; None without one.
        inhibited: filters with `|γ| < 0.01`; None without BatchNorm.
        weak_filters: filters under conditions C1 and C2 of kernel reactivation; None but for convolutions.
        weak_kernels: kernels in these under condition C3.
        overlap_mean: mean over the filters of the orthogonality sum, 0 … 1; None but for convolutions.
        overlap_worst: its largest value.
        parameters: number of the layer's parameters, with those of the BatchNorm right behind.
        effective_parameters: those that are left without the dead channels of the network.
        flops: floating-point operations for one image, two for each multiplication with addition.
        effective_flops: those that are left without the dead channels of the network.
    """

    name: str
    filters: int | None
    dead: int | None
    inhibited: int | None
    weak_filters: int | None
    weak_kernels: int | None
    overlap_mean: float | None
    overlap_worst: float | None
    parameters: int
    effective_parameters: int
    flops: int
    effective_flops: int


@dataclass(frozen=True)
class Utilization:
    """What the weights of a network show.

    Attributes:
        layers: every convolution and linear layer, in order of execution.
        parameters: number of all parameters of the network.
        effective_parameters: those that are left without its dead channels.
        parameter_share: their share, 0 … 1.
        flops: floating-point operations of the layers for one image.
        effective_flops: those that are left without the dead channels.
        flop_share: their share, 0 … 1.
    """

    layers: tuple[LayerUtilization, ...]
    parameters: int
    effective_parameters: int
    parameter_share: float
    flops: int
    effective_flops: int
    flop_share: float


@torch.no_grad()
def utilization(graph: CouplingGraph, tensors: Mapping[str, Tensor]) -> Utilization:
    """Tell how much of a network is in use, without data.

    Dead channels are left out of every tensor axis that carries them; see `dead_groups`.

    Args:
        graph: the network's coupling graph.
        tensors: `model.state_dict(keep_vars=True)`; what is counted are the parameters in it.

    Source: Qiao et al., Neural Rejuvenation, section 3.1 (dead, shares); Sharma, Foroosh, Channel Regeneration
        (inhibited); Lee, Kim, Versatile kernel reactivation (weak); Prakash et al., RePr, eq. 2 (overlap).
    """
    dead = _dead_members(dead_groups(graph, tensors))
    weak = _weak(graph, tensors)
    rows = tuple(_layer(layer, tensors, dead, weak) for layer in graph.layers)
    parameters, effective = _parameters(_parameter_keys(tensors), tensors, dead)
    flops, effective_flops = _flops(graph, tensors, dead)
    return Utilization(
        rows,
        parameters,
        effective,
        _share(effective, parameters),
        flops,
        effective_flops,
        _share(effective_flops, flops),
    )


@torch.no_grad()
def shares_in_use(
    graph: CouplingGraph, tensors: Mapping[str, Tensor], dead: Mapping[ChannelGroup, Tensor]
) -> tuple[float, float]:
    """Give the shares of a network's parameters and of its FLOPs that are left without some dead channels, 0 … 1.

    Args:
        graph: the network's coupling graph.
        tensors: `model.state_dict(keep_vars=True)`.
        dead: by group, the numbers of the channels, LongTensor; those of `dead_groups` give what `utilization` does.
    """
    members = _dead_members(dead)
    parameters, effective = _parameters(_parameter_keys(tensors), tensors, members)
    flops, effective_flops = _flops(graph, tensors, members)
    return _share(effective, parameters), _share(effective_flops, flops)


def dead_channels(scale: Tensor) -> Tensor:
    """Tell which channels of a BatchNorm are dead: `|γ| < 0.01 · max|γ|`, or a scale of exactly zero.

    The paper's rule calls none dead where all scales are zero, and such a layer is as dead as one can be.

    Args:
        scale: `[O]`.

    Returns:
        bool `[O]`.

    Source: Qiao et al., Neural Rejuvenation, section 3.1.
    """
    magnitudes = scale.abs()
    return (magnitudes < DEAD_SHARE * magnitudes.max()) | (magnitudes == 0)


def inhibited_channels(scale: Tensor, below: float = INHIBITED) -> Tensor:
    """Tell which channels of a BatchNorm are inhibited, `|γ| < 0.01`.

    Args:
        scale: `[O]`.
        below: the threshold, above 0.

    Returns:
        bool `[O]`.

    Source: Sharma, Foroosh, Channel Regeneration, section 1.
    """
    return scale.abs() < below


def dead_groups(graph: CouplingGraph, tensors: Mapping[str, Tensor]) -> dict[ChannelGroup, Tensor]:
    """Return the groups with dead channels, each with the numbers of these, LongTensor.

    A channel is dead where every layer that adds to it is cut off: on all ways from there to the weights that read it
    lies a BatchNorm whose scale is dead, and no other behind it, or a scale of exactly zero wherever it lies. (A small
    scale in front of another BatchNorm cuts nothing off: that one divides by how small it has made the channel.) Where
    these ways are not known, all of the group's BatchNorm scales have to be dead.

    Args:
        graph: the network's coupling graph.
        tensors: the network's tensors by state-dict key.
    """
    scales = {norm.weight for norm in graph.norms.values() if norm.weight is not None}
    dead = {key: dead_channels(tensors[key]).cpu() for key in scales if key in tensors}
    silent = {key: (tensors[key] == 0).cpu() for key in dead}
    layers = {layer.writer.weight: layer for layer in graph.layers if layer.writer is not None}
    passage = graph.passage
    found = {}
    for group in graph.groups:
        adding = [writer.weight for writer in group.writers if writer.weight not in passage.gates]
        streams = [key for key in adding if key not in layers or not is_depthwise(layers[key], tensors)]
        cuts = [
            _flags(group, dead, passage.closing.get(key, ())) + _flags(group, silent, passage.opening.get(key, ()))
            for key in streams
        ]
        flags = [torch.stack(cut).any(0) for cut in cuts] if all(cuts) else []
        flags = flags or _flags(group, dead, dead)
        found[group] = torch.stack(flags).all(0).nonzero().flatten() if flags else torch.empty(0, dtype=torch.int64)
    return {group: channels for group, channels in found.items() if channels.numel()}


def _dead_members(dead: Mapping[ChannelGroup, Tensor]) -> Dead:
    members: dict[str, list[tuple[Member, Tensor]]] = {}
    for group, channels in dead.items():
        for member in group.members:
            members.setdefault(member.tensor, []).append((member, member.positions[channels].flatten()))
    return members


def _flags(group: ChannelGroup, marked: Mapping[str, Tensor], keys: Collection[str]) -> list[Tensor]:
    """Return for each of some scales that the group's channels have which channels are marked in it, bool `[size]`."""
    return [
        marked[member.tensor][member.positions].all(1)
        for member in group.members
        if member.tensor in marked and member.tensor in keys
    ]


def _left(tensor: Tensor, dead: Iterable[tuple[Member, Tensor]]) -> int:
    """Return how many of a tensor's entries carry no dead channel."""
    members = list(dead)
    if not members:
        return tensor.numel()
    axes = {0, *(member.dim for member, _ in members)}
    alive = torch.ones([size if axis in axes else 1 for axis, size in enumerate(tensor.shape)], dtype=torch.bool)
    for member, positions in members:
        (alive if member.rows is None else alive[member.rows]).index_fill_(member.dim, positions, False)
    return int(alive.sum()) * (tensor.numel() // max(alive.numel(), 1))


def _parameters(keys: Iterable[str], tensors: Mapping[str, Tensor], dead: Dead) -> tuple[int, int]:
    found = list(keys)
    return sum(tensors[key].numel() for key in found), sum(_left(tensors[key], dead.get(key, ())) for key in found)


def _flops(graph: CouplingGraph, tensors: Mapping[str, Tensor], dead: Dead) -> tuple[int, int]:
    """Return the operations of all layers, and those that are left without the dead channels."""
    used = [(layer.positions, layer.writer.weight) for layer in graph.layers if layer.writer is not None]
    whole = sum(positions * tensors[key].numel() for positions, key in used)
    left = sum(positions * _left(tensors[key], dead.get(key, ())) for positions, key in used)
    computed = sum(layer.computed for layer in graph.layers)
    return FLOPS_PER_WEIGHT * (whole + computed), FLOPS_PER_WEIGHT * (left + computed)


def _parameter_keys(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the key of every parameter, the first where two modules share it."""
    first: dict[int, str] = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            first.setdefault(id(tensor), key)
    return list(first.values())


def _weak(graph: CouplingGraph, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return, for every convolution by its weight, the number of weak filters and of weak kernels in them."""
    axes = {
        layer.writer.weight: layer.filters
        for layer in graph.layers
        if layer.writer is not None and layer.convolution and not (layer.filters and layer.groups > 1)
    }
    weights = {key: tensors[key] for key in axes}
    invalid = invalid_filters(weights, axes, ALPHA, BETA)
    return {
        key: (int(chosen.sum()), invalid_kernels(weights[key], axes[key], chosen, GAMMA)[0].numel())
        for key, chosen in invalid.items()
    }


def _layer(
    layer: Layer, tensors: Mapping[str, Tensor], dead: Dead, weak: Mapping[str, tuple[int, int]]
) -> LayerUtilization:
    writer = layer.writer
    if writer is None:
        flops = FLOPS_PER_WEIGHT * layer.computed
        return LayerUtilization(layer.name, None, None, None, None, None, None, None, 0, 0, flops, flops)
    weight, norm = tensors[writer.weight], writer.norm
    scale = None if norm is None or norm.weight is None else tensors[norm.weight]
    overlaps = orthogonality_sums(filter_rows(weight, layer).float()) if layer.convolution else None
    weak_filters, weak_kernels = weak.get(writer.weight, (None, None))
    keys = (writer.weight, writer.bias, *(() if norm is None else (norm.weight, norm.bias)))
    owned = [key for key in keys if key is not None and isinstance(tensors[key], nn.Parameter)]
    parameters, effective = _parameters(owned, tensors, dead)
    flops = FLOPS_PER_WEIGHT * layer.positions
    return LayerUtilization(
        name=layer.name,
        filters=filter_rows(weight, layer).shape[0],
        dead=None if scale is None else int(dead_channels(scale).sum()),
        inhibited=None if scale is None else int(inhibited_channels(scale).sum()),
        weak_filters=weak_filters,
        weak_kernels=weak_kernels,
        overlap_mean=None if overlaps is None else float(overlaps.mean()),
        overlap_worst=None if overlaps is None else float(overlaps.max()),
        parameters=parameters,
        effective_parameters=effective,
        flops=flops * weight.numel(),
        effective_flops=flops * _left(weight, dead.get(writer.weight, ())),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
