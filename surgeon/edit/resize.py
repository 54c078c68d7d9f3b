"""Give channel groups other widths: tensors, the sizes that layers know of themselves, and what is remembered of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Member
from surgeon.edit.init import fresh_rows
from surgeon.edit.layers import changed_axes, sharing, sizes_then
from surgeon.edit.mix import Tensors
from surgeon.edit.plan import Resize, Width
from surgeon.edit.runs import Axis, axes_of, new_rows, new_shape, relaid, runs_of
from surgeon.errors import PlanError
from surgeon.structure import CrossAttentionConv2d, Structure, rebuild, structure_of

REMEDY = "Make the plan anew for this network."
Ends = tuple[int, int] | None


def check_resize(model: nn.Module, edit: Resize) -> None:
    """Make sure that an edit can be carried out on a network, before anything is changed.

    Raises:
        PlanError: it names channels or tensors that the network does not have, or layers whose sizes cannot follow.
    """
    tensors = model.state_dict(keep_vars=True)
    groups = [width.group for width in edit.widths]
    if len(set(groups)) != len(groups):
        raise PlanError("The plan gives one group of channels two widths.", REMEDY)
    for width in edit.widths:
        if not _is_width(width):
            raise PlanError(f"The new width of '{width.group.name}' does not fit its channels.", REMEDY)
        for member in width.group.members:
            if runs_of(member) is None or not _fits(tensors, member):
                raise PlanError(
                    f"The channels of '{width.group.name}' do not lie in '{member.tensor}' like this.", REMEDY
                )
    shared = sorted(sharing(model, edit.by_tensor))
    if shared:
        raise PlanError(f"More than one layer uses '{shared[0]}', which would get another size.", REMEDY)
    for name in sorted(sizes_then(model, changed_axes(edit, tensors))):
        if isinstance(model.get_submodule(name), CrossAttentionConv2d):
            # A graph of the network as it is fixes these channels.
            raise PlanError(f"The plan gives '{name}' another size, which has cross-attention by now.", REMEDY)


def resize(model: nn.Module, edit: Resize) -> None:
    """Give groups other widths in place; parameters stay the same objects, and lose their gradients.

    Args:
        model: the network.
        edit: the new widths, checked by `check_resize`.
    """
    tensors = model.state_dict(keep_vars=True)
    axes = changed_axes(edit, tensors)
    same_shape = [key for key, there in axes.items() if new_shape(there, tensors[key].shape) == tensors[key].shape]
    before, sizes = structure_of(model), sizes_then(model, axes)
    structure = Structure({**before.widths, **sizes}, before.attention)
    rebuild(model, structure, lambda key, tensor, shape: relaid(tensor, axes[key]))
    tensors = model.state_dict(keep_vars=True)
    for key in same_shape:
        # As many go as come, so that nothing was rebuilt.
        tensors[key].data.copy_(relaid(tensors[key].data, axes[key]))
        tensors[key].grad = None
    for index, (key, there) in enumerate(sorted(axes.items())):
        _start(model, key, tensors[key].data, there, edit.seed + index)


def carried(edit: Resize, key: str, tensor: Tensor) -> Tensor:
    """Return something with a parameter's old shape (a moment, a mask) in the new shape, zero where that is new.

    Args:
        edit: the new widths.
        key: the parameter's state-dict key.
        tensor: of the parameter's old shape.
    """
    return relaid(tensor, axes_of(edit, key, tensor.shape))


def renumbered(edit: Resize, graph: CouplingGraph) -> dict[ChannelGroup, Tensor]:
    """Return which channels are new ones, by group of the network's graph after an edit, LongTensor.

    Groups are told by the places of their channels, so that it does not matter how they are called then. A group that
    has one channel left is none, and is left out.

    Args:
        edit: what was carried out.
        graph: the network's coupling graph afterwards.
    """
    new = _new_places(edit)
    found = {}
    for group in graph.groups:
        for member in group.members:
            places = new.get((member.tensor, member.dim, _ends(member.rows)))
            if places is not None:
                channels = torch.isin(member.positions, places).all(1).nonzero().flatten()
                if channels.numel():
                    found[group] = channels
                break
    return found


def _new_places(edit: Resize) -> dict[tuple[str, int, Ends], Tensor]:
    """Return the positions of what is added by tensor, axis and rows, all of them the new ones."""
    result = {}
    for key, pairs in edit.by_tensor.items():
        # How long an axis is behind its last run does not matter here.
        lengths = [0] * (1 + max(member.dim for _, member in pairs))
        for _, member in pairs:
            lengths[member.dim] = max(lengths[member.dim], int(member.positions.max()) + 1)
        axes = axes_of(edit, key, lengths)
        for axis in axes:
            result[key, axis.dim, _ends(new_rows(axes, axis.rows))] = axis.added
    return result


def _ends(rows: slice | None) -> Ends:
    return None if rows is None else (rows.start, rows.stop)


def _is_width(width: Width) -> bool:
    keep = width.keep
    if keep.dim() != 1 or keep.is_floating_point() or width.add < 0 or width.size < 1:
        return False
    return not keep.numel() or (
        bool((keep.diff() > 0).all()) and int(keep[0]) >= 0 and int(keep[-1]) < width.group.size
    )


def _fits(tensors: Tensors, member: Member) -> bool:
    """Return whether a tensor has the places of a member."""
    shape = tuple(tensors[member.tensor].shape) if member.tensor in tensors else ()
    if member.dim >= len(shape) or (member.rows is not None and member.rows.stop > shape[0]):
        return False
    return int(member.positions.min()) >= 0 and int(member.positions.max()) < shape[member.dim]


def _start(model: nn.Module, key: str, tensor: Tensor, axes: Sequence[Axis], seed: int) -> None:
    """Fill what is new in a tensor of the new shape: as its layer starts, and zero where new channels are read."""
    written = [axis for axis in axes if axis.role != "consumer" and axis.added.numel()]
    with torch.no_grad():
        for start, fresh in fresh_rows(model, key, seed) if written else ():
            for axis in written:
                _write(tensor, axis, new_rows(axes, axis.rows), start, fresh)
        for axis in axes:
            if axis.role == "consumer" and axis.added.numel():
                part = tensor if axis.rows is None else tensor[new_rows(axes, axis.rows)]
                part.index_fill_(axis.dim, axis.added.to(tensor.device), 0)


def _write(tensor: Tensor, axis: Axis, rows: slice | None, start: int, fresh: Tensor) -> None:
    """Write what is new on an axis out of fresh rows, the first of which is row `start` of the tensor."""
    low, high = start, start + len(fresh)
    if rows is not None:
        low, high = max(low, rows.start), min(high, rows.stop)
    places = axis.added
    if axis.dim == 0:
        places = places[(places >= low) & (places < high)]
        tensor[places.to(tensor.device)] = fresh[(places - start).to(fresh.device)]
    elif low < high:
        places = places.to(tensor.device)
        tensor[low:high].index_copy_(axis.dim, places, fresh[low - start : high - start].index_select(axis.dim, places))
