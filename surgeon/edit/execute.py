"""Carry out a plan on a network: the only code that writes weights (`permute.py` holds its simplest case)."""

from collections.abc import Mapping

import torch
from torch import nn

from surgeon.coupling.graph import ChannelGroup, Member, Writer
from surgeon.edit.init import fresh_tensor
from surgeon.edit.permute import permute
from surgeon.edit.plan import Edit, Mix, Plan, Reinitialize, Reorder
from surgeon.errors import PlanError

Tensors = Mapping[str, torch.Tensor]


def execute(model: nn.Module, plan: Plan) -> None:
    """Carry out a plan in place.

    Everything is checked before the first tensor is written, so that a plan for another network changes nothing.

    Args:
        model: the network that the plan was made for.
        plan: edits, carried out in order.

    Raises:
        PlanError: the plan names a tensor that the network lacks or that is too small for it.
    """
    tensors = model.state_dict(keep_vars=True)
    for edit in plan.edits:
        _check(tensors, edit)
    with torch.no_grad():
        for edit in plan.edits:
            _carry_out(model, tensors, edit)


def _carry_out(model: nn.Module, tensors: Tensors, edit: Edit) -> None:
    if isinstance(edit, Reorder):
        permute(model, edit.group, edit.permutation)
    elif isinstance(edit, Mix):
        _mix(tensors, edit)
    else:
        _reinitialize(model, tensors, edit)


def _check(tensors: Tensors, edit: Edit) -> None:
    for member in edit.group.members:
        _check_member(tensors, member)


def _check_member(tensors: Tensors, member: Member) -> None:
    remedy = "Make the plan anew for this network."
    if member.tensor not in tensors:
        raise PlanError(f"The plan edits '{member.tensor}', which the network does not have.", remedy)
    shape = tensors[member.tensor].shape
    if member.dim >= len(shape):
        raise PlanError(f"The plan edits axis {member.dim} of '{member.tensor}', which has {len(shape)} axes.", remedy)
    low, high = int(member.positions.min()), int(member.positions.max())
    if low < 0 or high >= shape[member.dim] or (member.rows is not None and member.rows.stop > shape[0]):
        raise PlanError(
            f"The plan edits positions of '{member.tensor}' that do not exist in its shape {tuple(shape)}.", remedy
        )


def _view(tensors: Tensors, member: Member) -> torch.Tensor:
    """Return the rows of the member's tensor with its axis first; writing to the result writes to the tensor."""
    tensor = tensors[member.tensor].data
    return (tensor if member.rows is None else tensor[member.rows]).movedim(member.dim, 0)


def _mix(tensors: Tensors, edit: Mix) -> None:
    folds = _folded_values(tensors, edit) if edit.folded else {}
    for member in edit.group.members:
        weights = edit.consumers if member.role == "consumer" else edit.producers
        view = _view(tensors, member)
        weights = weights.to(view.device)
        positions = member.positions.to(view.device)
        known = folds.get(member.tensor) if member.role != "consumer" else None
        mixed = []
        for copy in range(positions.shape[1]):
            rows = view[positions[:, copy]].flatten(1) if view.dim() > 1 else view[positions[:, copy]].unsqueeze(1)
            mixed.append(weights @ rows.double() if known is None else known)
        for copy, rows in enumerate(mixed):
            places = positions[edit.channels.to(view.device), copy]
            view[places] = rows.reshape(len(places), *view.shape[1:]).to(view.dtype)


def _folded_values(tensors: Tensors, edit: Mix) -> dict[str, torch.Tensor]:
    """Return new rows for convolutions with a BatchNorm such that their common affine map is the mixed one.

    With s = γ/√(σ²+ε), a channel computes s·(W x + b − μ) + β. The mixed channel keeps the mean of |γ|, μ, σ² and b;
    its filter and shift are those that give the mean of the maps.
    """
    mix = edit.producers
    values: dict[str, torch.Tensor] = {}
    for writer in edit.group.writers:
        norm = writer.norm
        if norm is None or norm.weight is None or norm.bias is None:
            continue
        order = _order(edit.group, writer)
        gamma, beta, mean, variance = (
            tensors[key].data.double()[order].to(mix.device)
            for key in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        filters = tensors[writer.weight].data.double()[order].to(mix.device)
        bias = (
            torch.zeros_like(beta) if writer.bias is None else tensors[writer.bias].data.double()[order].to(mix.device)
        )
        scale = gamma / (variance + norm.eps).sqrt()
        shift = beta + scale * (bias - mean)
        new_gamma, new_mean, new_variance, new_bias = mix @ gamma.abs(), mix @ mean, mix @ variance, mix @ bias
        new_scale = new_gamma / (new_variance + norm.eps).sqrt()
        dead = new_scale == 0
        safe = torch.where(dead, torch.ones_like(new_scale), new_scale)
        plain = mix @ filters.flatten(1)
        new_filters = torch.where(dead[:, None], plain, (mix @ (scale[:, None] * filters.flatten(1))) / safe[:, None])
        values[writer.weight] = new_filters
        values[norm.weight] = new_gamma[:, None]
        values[norm.running_mean] = new_mean[:, None]
        values[norm.running_var] = new_variance[:, None]
        values[norm.bias] = ((mix @ shift) - new_scale * (new_bias - new_mean))[:, None]
        if writer.bias is not None:
            values[writer.bias] = new_bias[:, None]
    return values


def _order(group: ChannelGroup, writer: Writer) -> torch.Tensor:
    """Return the row of the writer's weight for each channel of the group."""
    member = next(m for m in group.members if m.tensor == writer.weight and m.dim == 0)
    return member.positions[:, 0]


def _reinitialize(model: nn.Module, tensors: Tensors, edit: Reinitialize) -> None:
    for index, member in enumerate(edit.group.members):
        consumer = member.role == "consumer"
        if consumer and edit.consumers == "keep":
            continue
        view = _view(tensors, member)
        places = member.positions[edit.channels].flatten().to(view.device)
        if consumer and edit.consumers == "zero":
            view[places] = 0
            continue
        # One seed a tensor and axis, so that no two tensors of one shape start alike.
        fresh = fresh_tensor(model, member.tensor, edit.seed + index)
        part = (fresh if member.rows is None else fresh[member.rows]).movedim(member.dim, 0)
        view[places] = part[places]
