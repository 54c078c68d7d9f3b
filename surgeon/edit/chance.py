"""Tell an order of channels that two networks share from the best of many that only chance makes good.

Among the orders of channels there is always one that brings two networks closer, and the fewer values a channel has,
the closer. What they share, all tensors agree on. So the second network's tensors are reordered at random, each for
itself, which leaves every tensor with the channels that it has and takes away what ties them together, and matched as
the network was (a permutation test with one permutation). A tensor that outweighs the others of a group would still
decide its order; there each value of a channel is taken from another channel.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member
from surgeon.edit.matching import Matching, distances, match
from surgeon.edit.permute import permute_member

MOST_OF_CHANCE = 2 / 3
"""Share of the distance by chance that may remain. For networks with nothing in common about 1 remains, 0.8 to 0.98
where they were trained on the same data; for one that was permuted and given noise as strong as its weights, 0.4 to
0.64."""


def beats_chance(matching: Matching, first: Mapping[str, Tensor]) -> bool:
    """Tell whether the channels that were assigned another place are closer to the first network's than by chance.

    Takes another matching. The random orders are the same every time.

    Args:
        matching: of a second network to the first.
        first: the first network's tensors by name.
    """
    left = _left(matching, first, matching.tensors)
    if left == 0:
        return True
    by_chance = match(matching.assigned, first, _scrambled(matching))
    return left <= MOST_OF_CHANCE * _left(matching, first, by_chance.tensors)


def _scrambled(matching: Matching) -> dict[str, Tensor]:
    """Return the tensors with nothing left by which those of an assigned group say the same of its channels."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: tensor.clone() for name, tensor in matching.tensors.items()}
    for group, members in matching.assigned.items():
        weights = [(_numel(tensors[member.tensor], member) / group.size) ** 0.5 for member in members]
        for member, weight in zip(members, weights, strict=True):
            if 2 * weight > sum(weights):
                _shuffle(tensors[member.tensor], member, generator)
            else:
                permute_member(tensors[member.tensor], member, torch.randperm(group.size, generator=generator))
    return tensors


def _numel(tensor: Tensor, member: Member) -> int:
    """Return the number of values that a member holds."""
    view = tensor if member.rows is None else tensor[member.rows]
    return view.numel() // view.shape[member.dim] * member.positions.numel()


def _shuffle(tensor: Tensor, member: Member, generator: torch.Generator) -> None:
    """Exchange a member's values between its channels at random in place, each place of a channel for itself."""
    view = tensor if member.rows is None else tensor[member.rows]
    for places in member.positions.T:
        values = view.index_select(member.dim, places)
        source = torch.rand(values.shape, generator=generator).argsort(member.dim)
        view.index_copy_(member.dim, places, values.gather(member.dim, source))


def without_assigned(matching: Matching) -> Matching:
    """Return the matching with the orders of those channels alone that both networks have value for value."""
    orders, tensors = dict(matching.orders), {name: tensor.clone() for name, tensor in matching.tensors.items()}
    for group, members in matching.assigned.items():
        orders[group] = _before(matching, group)
        for member in members:
            permute_member(tensors[member.tensor], member, matching.orders[group].argsort()[orders[group]])
    return Matching(orders, tensors, matching.found, {})


def _before(matching: Matching, group: ChannelGroup) -> Tensor:
    """Return the order that a group had when it was assigned."""
    return matching.found.get(group, torch.arange(group.size))


def _left(matching: Matching, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the distance of the channels that were assigned another place."""
    total = 0.0
    for group, members in matching.assigned.items():
        moved = matching.orders[group] != _before(matching, group)
        if bool(moved.any()):
            total += sum(float(distances(first, second, member).diagonal()[moved].sum()) for member in members)
    return total
