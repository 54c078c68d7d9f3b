"""Operations that move positions without looking at them: views, transposes, cuts and joins."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from surgeon.coupling.axes import Layout, mix_dims, rigid_dim, uniform_dim
from surgeon.coupling.combine import combine
from surgeon.coupling.concatenate import concatenate
from surgeon.coupling.context import Context, Rule, Value, plain, reason, result_shape, shape_of
from surgeon.coupling.views import expand, permute, reshape, take


def seen_as(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """View, flatten, squeeze and the like: the same entries in another shape (or, with another dtype, other ones)."""
    if arguments.get("dtype") is not None:
        context.freeze(arguments["self"], node)
        return unknown_layout(node)
    return reshape(context.layout(arguments["self"]), result_shape(node), context.ledger, plain(node))


def permuted(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`permute`: dimensions in a given order."""
    layout = context.layout(arguments["self"])
    return permute(layout, [dim % len(layout.dims) for dim in arguments["dims"]])


def swapped(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Transpose of two dimensions (the last two where none are named)."""
    layout = context.layout(arguments["self"])
    rank = len(layout.dims)
    first = arguments.get("dim0", arguments.get("axis0", rank - 2)) % max(1, rank)
    second = arguments.get("dim1", arguments.get("axis1", rank - 1)) % max(1, rank)
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return permute(layout, order)


def moved(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`movedim`: some dimensions at new places, the others in order."""
    layout = context.layout(arguments["self"])
    rank = len(layout.dims)

    def listed(value: int | Sequence[int]) -> list[int]:
        return [dim % rank for dim in ([value] if isinstance(value, int) else value)]

    sources, targets = listed(arguments["source"]), listed(arguments["destination"])
    others = iter(dim for dim in range(rank) if dim not in sources)
    order = [sources[targets.index(dim)] if dim in targets else next(others) for dim in range(rank)]
    return permute(layout, order)


def expanded(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Broadcast to a shape."""
    return expand(context.layout(arguments["self"]), result_shape(node))


def tiled(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`repeat` and `tile`: whole copies, one after the other."""
    layout = context.layout(arguments["self"])
    counts: list[int] = list(arguments["repeats"] if "repeats" in arguments else arguments["dims"])
    rank = max(len(counts), len(layout.dims))
    counts = [1] * (rank - len(counts)) + counts
    dims: list[Any] = [()] * (rank - len(layout.dims)) + list(layout.dims)
    return Layout(tuple(uniform_dim(count) + dim for count, dim in zip(counts, dims, strict=True)), layout.blocks)


def interleaved(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`repeat_interleave` by a number: every position several times in a row."""
    layout = context.layout(arguments["self"])
    count, dim = arguments.get("repeats"), arguments.get("dim")
    if not isinstance(count, int):
        for argument in node.all_input_nodes:
            context.freeze(argument, node)
        return unknown_layout(node)
    if dim is None:
        layout = reshape(layout, [_entries(layout)], context.ledger, plain(node))
        dim = 0
    dim %= len(layout.dims)
    dims = [legs + uniform_dim(count) if d == dim else legs for d, legs in enumerate(layout.dims)]
    return Layout(tuple(dims), layout.blocks)


def _entries(layout: Layout) -> int:
    total = 1
    for dim in layout.dims:
        for leg in dim:
            total *= leg.size
    return total


def unknown_layout(node: fx.Node) -> Layout:
    """Return a layout without channels for an operation's result."""
    return Layout(tuple(rigid_dim(size, f"the result of {node.target}") for size in result_shape(node)))


def joined(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`cat`; empty tensors of one dimension count for nothing, as in PyTorch."""
    tensors = [t for t in arguments["tensors"] if shape_of(t) != (0,)]
    layouts = [context.layout(tensor) for tensor in tensors]
    dim = arguments.get("dim", 0) % len(layouts[0].dims)
    for tensor, layout in zip(tensors, layouts, strict=True):
        context.mark(tensor, range(len(layout.dims)), "affine")
    _note_joined_weights(context, tensors, layouts, dim)
    return concatenate(layouts, dim, context.ledger, reason(node), context.bend)


def _note_joined_weights(context: Context, tensors: Sequence[Any], layouts: Sequence[Layout], dim: int) -> None:
    """State that channels along which several weights are joined into one cannot take up a factor.

    Only one of the weights would be known as what writes or reads them.
    """
    if not all(context.is_derived(tensor) for tensor in tensors):
        return
    outside = [{leg for d, legs in enumerate(layout.dims) if d != dim for leg in legs} for layout in layouts]
    for layout, legs in zip(layouts, outside, strict=True):
        for block in layout.blocks:
            if legs & set(block.free):
                context.ledger.note_inhomogeneous(block.labels, context.bend)


def stacked(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`stack`: a new dimension, one position a tensor."""
    layouts = [context.layout(tensor) for tensor in arguments["tensors"]]
    dim = arguments.get("dim", 0) % (len(layouts[0].dims) + 1)
    opened = [Layout((*la.dims[:dim], (), *la.dims[dim:]), la.blocks, la.zero) for la in layouts]
    _note_joined_weights(context, arguments["tensors"], opened, dim)
    return concatenate(opened, dim, context.ledger, reason(node), context.bend)


def sliced(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`tensor[start:end:step]` along one dimension."""
    layout = context.layout(arguments["self"])
    dim = arguments.get("dim", 0) % len(layout.dims)
    size = (shape_of(arguments["self"]) or ())[dim]
    start, stop, step = slice(arguments.get("start"), arguments.get("end"), arguments.get("step", 1)).indices(size)
    return take(layout, dim, start, stop, step, context.ledger, plain(node))


def selected(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """One position of a dimension, which disappears."""
    layout = context.layout(arguments["self"])
    dim = arguments["dim"] % len(layout.dims)
    size = (shape_of(arguments["self"]) or ())[dim]
    return _select(context, node, layout, dim, arguments["index"] % size)


def _select(context: Context, node: fx.Node, layout: Layout, dim: int, index: int) -> Layout:
    layout = take(layout, dim, index, index + 1, 1, context.ledger, plain(node))
    return Layout(layout.dims[:dim] + layout.dims[dim + 1 :], layout.blocks)


def unbound(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """All positions of a dimension, each as a tensor."""
    layout = context.layout(arguments["self"])
    dim = arguments.get("dim", 0) % len(layout.dims)
    size = (shape_of(arguments["self"]) or ())[dim]
    return tuple(_select(context, node, layout, dim, index) for index in range(size))


def parted(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`split`, `chunk` and their kin: the sizes are those of the results."""
    layout = context.layout(arguments["self"])
    dim = arguments.get("dim", 0) % len(layout.dims)
    parts = []
    start = 0
    for value in node.meta["val"]:
        stop = start + int(value.shape[dim])
        parts.append(take(layout, dim, start, stop, 1, context.ledger, plain(node)))
        start = stop
    return tuple(parts)


def indexed(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Indexing by one tensor along one dimension (bias tables); several index tensors freeze everything."""
    layout = context.layout(arguments["self"])
    if "index" in arguments:
        given = {arguments["dim"] % len(layout.dims): arguments["index"]}
    else:
        given = {dim: index for dim, index in enumerate(arguments["indices"]) if index is not None}
    shape = result_shape(node)
    dim, index = next(iter(given.items()))
    index_shape = shape_of(index)
    if len(given) != 1 or index_shape is None or index.meta["val"].dtype is torch.bool:
        for argument in node.all_input_nodes:
            context.freeze(argument, node)
        return unknown_layout(node)
    context.mark(arguments["self"], range(len(layout.dims)), "affine")
    context.freeze(index, node)
    layout = mix_dims(layout, [dim], context.ledger, plain(node), "positions chosen by an index")
    gone = set(layout.dims[dim])
    if any(gone & set(block.legs) for block in layout.blocks):
        context.freeze(arguments["self"], node)
        return unknown_layout(node)
    chosen = tuple(rigid_dim(size, "positions chosen by an index") for size in shape[dim : dim + len(index_shape)])
    return Layout((*layout.dims[:dim], *chosen, *layout.dims[dim + 1 :]), layout.blocks)


def gathered(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`gather`: positions along one dimension chosen anew at every place of the others, which stay where they are."""
    layout = context.layout(arguments["self"])
    chosen = context.freeze(arguments["index"], node)
    dim = arguments["dim"] % max(1, len(layout.dims))
    shape = shape_of(arguments["self"]) or ()
    others = [d for d in range(len(layout.dims)) if d != dim]
    layout = mix_dims(layout, [dim], context.ledger, plain(node), "positions chosen by an index")
    gone = set(layout.dims[dim])
    cut = any(result_shape(node)[d] != shape[d] for d in others)
    if cut or any(gone & set(block.legs) for block in layout.blocks):
        context.freeze(arguments["self"], node)
        return unknown_layout(node)
    place = rigid_dim(result_shape(node)[dim], "positions chosen by an index")
    met = Layout(tuple(() if d == dim else legs for d, legs in enumerate(layout.dims)), layout.blocks)
    index = Layout(tuple(() if d == dim else legs for d, legs in enumerate(chosen.dims)))
    result = combine(met, index, context.ledger, reason(node))
    return Layout(tuple(place if d == dim else legs for d, legs in enumerate(result.dims)), result.blocks)


def looked_up(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`embedding`: rows of a table."""
    table = context.layout(arguments["weight"])
    context.freeze(arguments["indices"], node)
    context.mark(arguments["weight"], [1], "affine")
    table = mix_dims(table, [0], context.ledger, plain(node), "positions chosen by an index")
    shape = result_shape(node)
    return Layout((*(rigid_dim(size, "tokens") for size in shape[:-1]), table.dims[1]), table.blocks)


def written_into(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`slice_scatter`, `select_scatter`, `index_put`: what is written meets what stood there."""
    for argument in node.all_input_nodes:
        context.freeze(argument, node)
    return unknown_layout(node)


def whole(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Nothing to say about a value that is no tensor of channels (assertions, sizes)."""
    return None


VIEWS = "view reshape flatten unflatten squeeze unsqueeze reshape_as view_as _unsafe_view ravel"

RULES: dict[str, Rule] = {
    **{f"aten.{name}": seen_as for name in VIEWS.split()},
    "aten.permute": permuted,
    **{f"aten.{name}": swapped for name in ("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT")},
    "aten.movedim": moved,
    "aten.expand": expanded,
    "aten.expand_as": expanded,
    "aten.broadcast_to": expanded,
    "aten.repeat": tiled,
    "aten.tile": tiled,
    "aten.repeat_interleave": interleaved,
    **{f"aten.{name}": joined for name in ("cat", "concat", "concatenate")},
    "aten.stack": stacked,
    "aten.slice": sliced,
    "aten.select": selected,
    "aten.unbind": unbound,
    **{f"aten.{name}": parted for name in ("split", "split_with_sizes", "chunk", "tensor_split")},
    "aten.index": indexed,
    "aten.index_select": indexed,
    "aten.gather": gathered,
    "aten.embedding": looked_up,
    **{f"aten.{name}": written_into for name in ("slice_scatter", "select_scatter", "index_put", "scatter")},
    **{f"aten.{name}": whole for name in ("_assert_tensor_metadata", "_assert_async", "sym_size", "_assert_scalar")},
}
