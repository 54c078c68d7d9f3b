"""Reorder the channels of a group in every tensor that carries them."""

from collections.abc import Sequence

import torch
from torch import nn

from surgeon.coupling.graph import ChannelGroup, Member
from surgeon.errors import PlanError


def permute(model: nn.Module, group: ChannelGroup, permutation: torch.Tensor | Sequence[int]) -> None:
    """Reorder the channels of a group in place: new channel i is the old channel `permutation[i]`.

    The network's function stays what it was.

    Args:
        model: the network that the group was traced from.
        group: the channels to reorder.
        permutation: LongTensor `[size]` or a sequence, every number from 0 to size − 1 once.

    Raises:
        PlanError: `permutation` is not a permutation of the group's channels.
    """
    order = check_permutation(group, permutation)
    tensors = model.state_dict(keep_vars=True)
    for member in group.members:
        known = member.tensor in tensors and member.dim < tensors[member.tensor].dim()
        if not known or int(member.positions.max()) >= tensors[member.tensor].shape[member.dim]:
            raise PlanError(f"The group '{group.name}' is not of this network.", "Trace this network anew.")
    with torch.no_grad():
        for member in group.members:
            permute_member(tensors[member.tensor], member, order)


def check_permutation(group: ChannelGroup, permutation: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Return the permutation as a LongTensor on the CPU.

    Raises:
        PlanError: it does not name each of the group's channels once.
    """
    order = torch.as_tensor(permutation, dtype=torch.int64, device="cpu")
    if order.shape != (group.size,) or not torch.equal(order.sort().values, torch.arange(group.size)):
        raise PlanError(
            f"The permutation for '{group.name}' does not name each of its {group.size} channels once.",
            f"Pass the numbers from 0 to {group.size - 1} in any order.",
        )
    return order


def permute_member(tensor: torch.Tensor, member: Member, order: torch.Tensor) -> None:
    """Reorder one member's positions of a tensor in place."""
    view = tensor.data[member.rows] if member.rows is not None else tensor.data
    positions = member.positions.to(tensor.device)
    source = positions[order.to(tensor.device)].flatten()
    view.index_copy_(member.dim, positions.flatten(), view.index_select(member.dim, source))
