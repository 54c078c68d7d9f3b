"""Carry out a plan on a network: the only code that writes weights (`permute.py` holds its simplest case)."""

import torch
from torch import nn

from surgeon.coupling.graph import Member
from surgeon.edit.init import fresh_rows
from surgeon.edit.mix import Tensors, channels_first, mix
from surgeon.edit.permute import check_permutation, permute
from surgeon.edit.plan import (
    PIECE,
    Attend,
    Blend,
    Edit,
    InPlace,
    Mix,
    Plan,
    Reinitialize,
    Reorder,
    Rescale,
    Resize,
    Set,
    places_of,
)
from surgeon.edit.rescale import rescale
from surgeon.edit.resize import check_resize, resize
from surgeon.errors import PlanError
from surgeon.structure import Structure, attend, attendable, remember, structure_of

REMEDY = "Make the plan anew for this network."


def execute(model: nn.Module, plan: Plan) -> None:
    """Carry out a plan in place.

    Everything is checked before the first tensor is written, so that a plan for another network changes nothing.

    Args:
        model: the network that the plan was made for.
        plan: edits, carried out in order.

    Raises:
        PlanError: the plan names a tensor that the network lacks or that is too small for it, or layers whose sizes
            cannot follow.
    """
    tensors = model.state_dict(keep_vars=True)
    for key, shape in plan.shapes.items():
        if tuple(_known(tensors, key).shape) != tuple(shape):
            raise PlanError(
                f"The plan was made for a '{key}' of {list(shape)}, and the network's is {list(tensors[key].shape)}.",
                REMEDY,
            )
    for edit in plan.edits:
        if isinstance(edit, Resize):
            _check_alone(plan)
            check_resize(model, edit)
        elif isinstance(edit, Attend):
            _check_attention(model, edit)
        else:
            _check(tensors, edit)
    with torch.no_grad():
        for edit in plan.edits:
            _carry_out(model, tensors, edit)


def _carry_out(model: nn.Module, tensors: Tensors, edit: Edit) -> None:
    if isinstance(edit, Reorder):
        permute(model, edit.group, edit.permutation)
    elif isinstance(edit, Mix):
        mix(tensors, edit)
    elif isinstance(edit, Reinitialize):
        _reinitialize(model, tensors, edit)
    elif isinstance(edit, Rescale):
        rescale(tensors, edit.scaling, edit.factors)
    elif isinstance(edit, Resize):
        resize(model, edit)
    elif isinstance(edit, Set):
        _set(tensors[edit.tensor].data, edit)
    elif isinstance(edit, Attend):
        attend(model, edit.module, edit.sets)
        known = structure_of(model)
        remember(model, Structure(known.widths, {**known.attention, edit.module: edit.sets}))
    else:
        tensor = tensors[edit.tensor].data
        tensor.lerp_(edit.other.to(tensor.device, tensor.dtype), 1 - edit.share)


def _set(tensor: torch.Tensor, edit: Set) -> None:
    size = max(1, PIECE // edit.block_size)
    pieces = edit.values.expand(edit.count).split(size * edit.block_size)
    for blocks, values in zip(edit.blocks.split(size), pieces, strict=True):
        entries = places_of(blocks.to(tensor.device), edit.block_size)
        tensor.put_(entries, values.to(tensor.device, tensor.dtype))


def _check_alone(plan: Plan) -> None:
    """Refuse other edits beside one that gives the tensors other shapes: it is not known for which they are meant."""
    if len(plan.edits) > 1:
        raise PlanError(
            "The plan gives channels other widths beside other edits.", "Make a plan of its own for the new widths."
        )


def _check(tensors: Tensors, edit: InPlace) -> None:
    if isinstance(edit, (Rescale, Set, Blend)):
        _check_values(tensors, edit)
        return
    for member in edit.group.members:
        _check_member(tensors, member)
    size = edit.group.size
    if isinstance(edit, Reorder):
        check_permutation(edit.group, edit.permutation)
        return
    fits = _are_places(edit.channels, size)
    if isinstance(edit, Mix):
        fits = fits and edit.producers.shape == edit.consumers.shape == (len(edit.channels), size)
    if not fits:
        raise PlanError(f"An edit of '{edit.group.name}' does not fit its {size} channels.", REMEDY)


def _are_places(places: torch.Tensor, size: int) -> bool:
    """Return whether these are different places below `size`."""
    if places.dim() != 1 or (places.numel() and (int(places.min()) < 0 or int(places.max()) >= size)):
        return False
    taken = torch.zeros(size, dtype=torch.bool, device=places.device)
    for piece in places.split(PIECE):
        taken[piece.long()] = True
    return int(taken.count_nonzero()) == len(places)


def _check_attention(model: nn.Module, edit: Attend) -> None:
    module = dict(model.named_modules()).get(edit.module)
    if not isinstance(module, nn.Conv2d) or not attendable(module):
        raise PlanError(
            f"The plan gives cross-attention to '{edit.module}', which is no plain convolution of the network.", REMEDY
        )
    for chosen, size in ((edit.sets.written, module.out_channels), (edit.sets.read, module.in_channels)):
        if not 0 < len(chosen) < size or not set(chosen) <= set(range(size)) or list(chosen) != sorted(set(chosen)):
            raise PlanError(f"The plan's cross-attention of '{edit.module}' does not fit its {size} channels.", REMEDY)


def _check_values(tensors: Tensors, edit: Rescale | Set | Blend) -> None:
    if isinstance(edit, Rescale):
        for part in edit.scaling.parts:
            tensor = _known(tensors, part.tensor)
            if part.dim >= tensor.dim() or tensor.shape[part.dim] != len(part.scale):
                raise PlanError(f"The plan rescales '{part.tensor}', which has another shape.", REMEDY)
        factors = edit.factors
        if factors.shape != (edit.scaling.size,) or not bool(((factors > 0) & factors.isfinite()).all()):
            raise PlanError("The plan rescales by factors that are not positive numbers.", REMEDY)
        return
    tensor = _known(tensors, edit.tensor)
    if isinstance(edit, Set):
        blocks, rest = divmod(tensor.numel(), edit.block_size)
        fits = not rest and edit.values.shape in {(1,), (edit.count,)} and _are_places(edit.blocks, blocks)
    else:
        floating = edit.other.is_floating_point() and tensor.is_floating_point()
        fits = edit.other.shape == tensor.shape and 0 <= edit.share <= 1 and floating
    if not fits:
        raise PlanError(f"The plan's values for '{edit.tensor}' do not fit its shape {tuple(tensor.shape)}.", REMEDY)


def _known(tensors: Tensors, key: str) -> torch.Tensor:
    if key not in tensors:
        raise PlanError(f"The plan edits '{key}', which the network does not have.", REMEDY)
    return tensors[key]


def _check_member(tensors: Tensors, member: Member) -> None:
    shape = _known(tensors, member.tensor).shape
    if member.dim >= len(shape):
        raise PlanError(f"The plan edits axis {member.dim} of '{member.tensor}', which has {len(shape)} axes.", REMEDY)
    low, high = int(member.positions.min()), int(member.positions.max())
    if low < 0 or high >= shape[member.dim] or (member.rows is not None and member.rows.stop > shape[0]):
        raise PlanError(
            f"The plan edits positions of '{member.tensor}' that do not exist in its shape {tuple(shape)}.", REMEDY
        )


def _reinitialize(model: nn.Module, tensors: Tensors, edit: Reinitialize) -> None:
    for index, member in enumerate(edit.group.members):
        consumer = member.role == "consumer"
        if consumer and edit.consumers == "keep":
            continue
        if consumer and edit.consumers == "zero":
            view = channels_first(tensors, member)
            view[member.positions[edit.channels].flatten().to(view.device)] = 0
            continue
        # One seed a tensor and axis, so that no two tensors of one shape start alike.
        for start, fresh in fresh_rows(model, member.tensor, edit.seed + index):
            _renew(tensors[member.tensor].data, member, edit.channels, start, fresh)


def _renew(tensor: torch.Tensor, member: Member, channels: torch.Tensor, start: int, fresh: torch.Tensor) -> None:
    """Write the channels' part of fresh rows, the first of which is row `start` of the tensor."""
    rows = slice(0, len(tensor)) if member.rows is None else member.rows
    low, high = max(start, rows.start), min(start + len(fresh), rows.stop)
    if low >= high:
        return
    places = member.positions[channels].flatten().to(tensor.device)
    if member.dim == 0:
        places = places + rows.start - low
        places = places[(places >= 0) & (places < high - low)]
    part = fresh[low - start : high - start].index_select(member.dim, places)
    tensor[low:high].index_copy_(member.dim, places, part)
