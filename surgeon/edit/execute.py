"""Carry out a plan on a network: the only code that writes weights (`permute.py` holds its simplest case)."""

from collections.abc import Mapping

import torch
from torch import nn

from surgeon.coupling.graph import ChannelGroup, Member, Writer
from surgeon.edit.init import fresh_tensor
from surgeon.edit.permute import check_permutation, permute
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
    size = edit.group.size
    if isinstance(edit, Reorder):
        check_permutation(edit.group, edit.permutation)
        return
    channels = edit.channels
    fits = (
        channels.dim() == 1
        and bool(((channels >= 0) & (channels < size)).all())
        and channels.unique().numel() == len(channels)
    )
    if isinstance(edit, Mix):
        fits = fits and edit.producers.shape == edit.consumers.shape == (len(channels), size)
    if not fits:
        raise PlanError(
            f"An edit of '{edit.group.name}' does not fit its {size} channels.", "Make the plan anew for this network."
        )


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
    # Folded rows come from filters as they are before any column of the same tensor is mixed.
    folded = _write_folded(tensors, edit) if edit.folded else set()
    for member in edit.group.members:
        if (member.tensor, member.dim) in folded:
            continue
        view = _view(tensors, member)
        weights = (edit.consumers if member.role == "consumer" else edit.producers).to(view.device)
        positions = member.positions.to(view.device)
        channels = edit.channels.to(view.device)
        copies = range(positions.shape[1])
        mixed = [weights @ view[positions[:, copy]].flatten(1 if view.dim() > 1 else 0).double() for copy in copies]
        for copy, rows in zip(copies, mixed, strict=True):
            places = positions[channels, copy]
            view[places] = rows.reshape(len(places), *view.shape[1:]).to(view.dtype)


def foldable(group: ChannelGroup) -> tuple[Writer, ...]:
    """Return the writers whose BatchNorm belongs to them alone, so that both can be mixed as one affine map."""
    used = [writer.norm.running_mean for writer in group.writers if writer.norm is not None]
    rows = {member.tensor for member in group.members if member.dim == 0 and member.role != "consumer"}
    return tuple(
        writer
        for writer in group.writers
        if writer.norm is not None
        and writer.norm.weight is not None
        and writer.norm.bias is not None
        and used.count(writer.norm.running_mean) == 1
        and writer.weight in rows
    )


def _write_folded(tensors: Tensors, edit: Mix) -> set[tuple[str, int]]:
    """Mix the affine maps of convolutions with their BatchNorms, and return the tensor axes that are done with it."""
    done: set[tuple[str, int]] = set()
    writes: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for writer in foldable(edit.group):
        member = next(m for m in edit.group.members if m.tensor == writer.weight and m.dim == 0)
        for copy in range(member.positions.shape[1]):
            rows = member.positions[:, copy]
            places = rows[edit.channels]
            writes += [(key, places, values) for key, values in _folded_values(tensors, writer, rows, edit.producers)]
    for key, places, values in writes:
        tensor = tensors[key].data
        tensor[places.to(tensor.device)] = values.reshape(-1, *tensor.shape[1:]).to(tensor.device, tensor.dtype)
        done.add((key, 0))
    return done


def _folded_values(
    tensors: Tensors, writer: Writer, rows: torch.Tensor, mix: torch.Tensor
) -> list[tuple[str, torch.Tensor]]:
    """Return new rows for a convolution and its BatchNorm such that their common affine map is the mixed one.

    With s = γ/√(σ²+ε), a channel computes s·(W x + b − μ) + β. The mixed channel keeps the mean of |γ|, μ, σ² and b;
    its filter and shift are those that give the mean of the maps.
    """
    norm = writer.norm
    assert norm is not None
    assert norm.weight is not None
    assert norm.bias is not None

    def read(key: str) -> torch.Tensor:
        return tensors[key].data.cpu().double()[rows]

    gamma, beta, mean, variance = (read(key) for key in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    filters = read(writer.weight).flatten(1)
    bias = torch.zeros_like(beta) if writer.bias is None else read(writer.bias)
    scale = gamma / (variance + norm.eps).sqrt()
    shift = beta + scale * (bias - mean)
    new_gamma, new_mean, new_variance, new_bias = mix @ gamma.abs(), mix @ mean, mix @ variance, mix @ bias
    new_scale = new_gamma / (new_variance + norm.eps).sqrt()
    dead = new_scale == 0
    safe = torch.where(dead, torch.ones_like(new_scale), new_scale)
    new_filters = torch.where(dead[:, None], mix @ filters, (mix @ (scale[:, None] * filters)) / safe[:, None])
    values = [
        (writer.weight, new_filters),
        (norm.weight, new_gamma),
        (norm.running_mean, new_mean),
        (norm.running_var, new_variance),
        (norm.bias, (mix @ shift) - new_scale * (new_bias - new_mean)),
    ]
    return values if writer.bias is None else [*values, (writer.bias, new_bias)]


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
