"""Find the order of a network's channels by which its weights are closest to those of another network.

Channels that both networks have value for value are found by colour refinement. The others are assigned, one group
after the other, so that everything that carries a group's channels is as close as it can be while the other groups stay
(weight matching of Ainsworth, Hayase and Srinivasa, "Git Re-Basin", 2023, algorithm 1).
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member
from surgeon.edit.permute import permute_member
from surgeon.edit.refinement import Carriers, Refined, refine

MOST_VISITS = 20
"""Visits to a group at most, on average; every visit that changes anything brings the group's channels closer."""

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)

ROUNDING = 1e-5
"""Share of a cost below which a gain is rounding: distances are worked out in float32."""


@dataclass(frozen=True, eq=False)
class Matching:
    """How the channels of a second network correspond to those of a first.

    Attributes:
        orders: for every group that could be compared, LongTensor `[size]`: channel i of the first network is channel
            `order[i]` of the second.
        tensors: the second network's tensors that carry groups, with all channels brought into these orders; copies.
        found: those of the orders by which channels are the same value for value; of tied channels any.
        assigned: the groups whose channels were assigned by distance, with the members that they were compared by.
    """

    orders: Mapping[ChannelGroup, Tensor]
    tensors: Mapping[str, Tensor]
    found: Mapping[ChannelGroup, Tensor]
    assigned: Carriers


def match(groups: Iterable[ChannelGroup], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Matching:
    """Match the channels of a second network to those of a first.

    The distance of two channels is, for each member, `‖a − b‖² / (‖a‖² + ‖b‖²)`, in 0 … 2, so that weak channels count
    like strong ones; members are weighted by the root of the number of their values for a channel, so that chance
    differences count alike. Values that are not finite count as zero there.

    Args:
        groups: of a network that both state dicts are of.
        first: the first network's tensors by name.
        second: the second's; what only one of them has, or with another shape, is passed over.
    """
    carriers = _carriers(groups, first, second)
    refined = refine(carriers, first, second)
    aligned = _Aligned(carriers, second, refined.orders)
    unsure = _unsure(carriers, refined, first, aligned)
    if not refined.tied.isdisjoint(unsure):
        refined = refine(carriers, first, second, carefully=True)
        aligned = _Aligned(carriers, second, refined.orders)
        unsure = _unsure(carriers, refined, first, aligned)
    if unsure:
        rough = _Aligned(carriers, second, {**aligned.orders, **_rough(unsure, first, aligned)})
        for candidate in (aligned, rough):
            _descend(unsure, first, candidate)
        aligned = min((aligned, rough), key=lambda candidate: _distance(first, candidate.tensors))
    return Matching(aligned.orders, aligned.tensors, refined.orders, unsure)


def _unsure(carriers: Carriers, refined: Refined, first: Mapping[str, Tensor], aligned: "_Aligned") -> Carriers:
    """Return the groups that refinement has not found, or paired freely, and that tensors which differ carry."""
    differing = {name for name, tensor in aligned.tensors.items() if not same_values(first[name], tensor)}
    return {
        group: members
        for group, members in carriers.items()
        if (group not in refined.orders or group in refined.tied) and any(one.tensor in differing for one in members)
    }


def exact(tensor: Tensor) -> Tensor:
    """Return the same numbers in the type that holds all of their kind: float64, complex128 or int64."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64)


def same_values(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of one shape hold the same numbers, of whatever types; NaN is no number."""
    if one.dtype == other.dtype:
        return torch.equal(one, other)
    one, other = exact(one), exact(other)
    dtype = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(dtype), other.to(dtype))


class _Aligned:
    """A network's tensors that carry groups, with the channels of some groups brought into another order.

    Args:
        carriers: the groups and their members.
        tensors: of the network, by name; they stay as they are.
        orders: see `Matching`; the other groups keep their order.
    """

    def __init__(
        self, carriers: Carriers, tensors: Mapping[str, Tensor], orders: Mapping[ChannelGroup, Tensor]
    ) -> None:
        self.carriers = carriers
        names = dict.fromkeys(member.tensor for members in carriers.values() for member in members)
        self.tensors = {name: _movable(tensors[name]) for name in names}
        self.orders = {group: torch.arange(group.size) for group in carriers}
        for group, order in orders.items():
            self.reorder(group, order)

    def reorder(self, group: ChannelGroup, order: Tensor) -> None:
        """Bring a group's channels into another order than they have now."""
        if torch.equal(order, torch.arange(group.size)):
            return
        for member in self.carriers[group]:
            permute_member(self.tensors[member.tensor], member, order)
        self.orders[group] = self.orders[group][order]


def _movable(tensor: Tensor) -> Tensor:
    """Return a copy whose positions torch can move: it cannot for numbers of 8 bits, nor without a sign."""
    if tensor.is_floating_point():
        return tensor.to(torch.float32) if tensor.itemsize == 1 else tensor.clone()
    return exact(tensor) if tensor.dtype in UNSIGNED else tensor.clone()


def _carriers(groups: Iterable[ChannelGroup], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Carriers:
    """Return the groups with the members that can be compared; groups without any are left out."""
    carriers = {}
    for group in groups:
        members = tuple(one for one in group.members if _are_alike(first.get(one.tensor), second.get(one.tensor)))
        if members:
            carriers[group] = members
    return carriers


def _are_alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.is_complex() or other.is_complex():
        return False
    return one.shape == other.shape


def _descend(unsure: Carriers, first: Mapping[str, Tensor], aligned: _Aligned) -> None:
    """Assign the channels of one group after the other, until none comes closer to the first network's."""
    waiting = dict.fromkeys(unsure)
    for _ in range(MOST_VISITS * len(unsure)):
        if not waiting:
            return
        group = next(iter(waiting))
        del waiting[group]
        costs = _costs(group, unsure[group], first, aligned)
        order = _assignment(costs)
        gain = costs.diagonal().sum() - costs[torch.arange(group.size), order].sum()
        if gain > ROUNDING * costs.diagonal().sum():
            aligned.reorder(group, order)
            near = {member.tensor for member in unsure[group]}
            touched = (other for other, members in unsure.items() if near & {member.tensor for member in members})
            waiting.update(dict.fromkeys(other for other in touched if other is not group))


def _costs(group: ChannelGroup, members: Iterable[Member], first: Mapping[str, Tensor], aligned: _Aligned) -> Tensor:
    costs = torch.zeros(group.size, group.size)
    for member in members:
        costs += distances(first, aligned.tensors, member)
    return costs


def _rough(unsure: Carriers, first: Mapping[str, Tensor], aligned: _Aligned) -> dict[ChannelGroup, Tensor]:
    """Return orders by what can be said of a channel whatever the order of the others.

    Values along an axis whose order is unknown are compared sorted: the least distance that any order gives.
    """
    open_dims: dict[str, set[int]] = {}
    for members in unsure.values():
        for member in members:
            open_dims.setdefault(member.tensor, set()).add(member.dim)
    orders = {}
    for group, members in unsure.items():
        costs = torch.zeros(group.size, group.size)
        for member in members:
            one = distances(first, aligned.tensors, member, open_dims[member.tensor] - {member.dim})
            # Sorted values are all close to each other, the more the more there are.
            costs += one / one.mean().clamp_min(torch.finfo(one.dtype).tiny)
        orders[group] = _assignment(costs)
    return orders


def _assignment(costs: Tensor) -> Tensor:
    """Return the order of the columns whose sum of costs along the diagonal is least."""
    return torch.from_numpy(linear_sum_assignment(costs.numpy())[1])


def distances(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], member: Member, unordered: Set[int] = frozenset()
) -> Tensor:
    """Return the weighted distances of all channels of a member in both networks, float32 `[size, size]`.

    See `match`; values along the axes `unordered` are compared sorted.
    """
    (one, norms), (other, others) = (_directions(side[member.tensor], member, unordered) for side in (first, second))
    squares = norms.square()[:, None] + others.square()
    products = norms[:, None] * others * (one @ other.T)
    relative = 1 - 2 * products / squares
    # Both are zero where the sum of their squares is.
    return (one.shape[1] ** 0.5 * relative.masked_fill_(squares == 0, 0.0).clamp_min_(0.0)).to(torch.float32)


def _directions(tensor: Tensor, member: Member, unordered: Set[int]) -> tuple[Tensor, Tensor]:
    """Return what a member holds of each channel as unit vectors, float32 `[size, n]`, and their norms, float64."""
    block = tensor if member.rows is None else tensor[member.rows]
    size, repeat = member.positions.shape
    axes = sorted(set(range(block.dim())) - {member.dim} - unordered)
    block = block.permute(member.dim, *axes, *sorted(unordered))
    lengths = [block.shape[1 + place] for place in range(len(axes))]
    values = block[member.positions.flatten()].reshape(size, repeat, *lengths, -1)
    values = values.to(torch.float32).nan_to_num(0.0, 0.0, 0.0)
    if unordered:
        values = values.sort(-1).values
    values = values.reshape(size, -1)
    # Channels may be so weak that their squares vanish.
    largest = values.abs().amax(1, keepdim=True)
    values = values / largest.masked_fill(largest == 0, 1.0)
    norms = values.norm(dim=1, keepdim=True)
    unit = values / norms.masked_fill(norms == 0, 1.0)
    return unit, (largest.to(torch.float64) * norms).flatten()


def _distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the sum of the tensors' relative distances."""
    total = 0.0
    for name, tensor in second.items():
        one, other = (side.to(torch.float64).nan_to_num(0.0, 0.0, 0.0) for side in (first[name], tensor))
        squares = float(one.square().sum() + other.square().sum())
        total += float((one - other).square().sum()) / squares if squares else 0.0
    return total
