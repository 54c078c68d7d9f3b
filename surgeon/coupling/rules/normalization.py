"""Normalization layers: statistics over some dimensions, then one scale and shift a channel."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Layout, harden, index_along, reduce, rigid_layout
from surgeon.coupling.combine import combine
from surgeon.coupling.context import Context, Rule, Value, plain, reason, result_shape
from surgeon.coupling.graph import Norm, Role
from surgeon.coupling.rules.attention import normalize_over
from surgeon.coupling.views import reshape


def _affine(
    context: Context, node: fx.Node, layout: Layout, arguments: dict[str, Any], names: tuple[str, ...], behind: int
) -> Layout:
    """Combine parameters that lie along the dimension with `behind` dimensions after it."""
    for name in names:
        argument = arguments.get(name)
        if argument is None:
            continue
        vector = context.layout(argument)
        role: Role = "statistic" if name.startswith("running") else "affine"
        context.mark(argument, range(len(vector.dims)), role)
        vector = Layout(vector.dims + ((),) * behind, vector.blocks)
        layout = combine(layout, vector, context.ledger, reason(node))
        if name in ("bias", "running_mean"):
            context.shifted(layout, vector)
    return layout


def batch_norm(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`[B, C, …]`: running statistics, or (in training) those of the batch."""
    layout = context.layout(arguments["input"])
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, var = (context.key(arguments.get(name)) for name in names)
    norm = None if mean is None or var is None else Norm(weight, bias, mean, var, float(arguments["eps"]))
    if norm is not None and "batch_norm" in str(node.target):
        context.batch_norms.setdefault(context.module, norm)
    if context.scaling:
        return _scaled_anew(context, node, arguments)
    live = bool(arguments.get("training")) or bool(arguments.get("use_input_stats"))
    if live:
        others = [dim for dim in range(len(layout.dims)) if dim != 1]
        if "instance_norm" in str(node.target):
            others = others[1:]
        layout = normalize_over(context, node, layout, others)
    result = _affine(context, node, layout, arguments, names, len(layout.dims) - 2)
    writer = context.writers.get(arguments["input"]) if len(arguments["input"].users) == 1 and not live else None
    if writer is None or writer.depthwise or weight is None:
        # Fixed statistics undo a factor on what comes in; right behind a producer, scale and shift take it up instead.
        context.inhomogeneous(layout)
    if writer is not None and norm is not None:
        context.norms.setdefault(writer.weight, []).append(norm)
    return result


def _scaled_anew(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Layout:
    """Return the layout of a BatchNorm's result by its scale and shift: no factor passes the statistics."""
    context.inhomogeneous(context.layout(arguments["input"]))
    result = rigid_layout(result_shape(node), "a normalized tensor")
    behind = ((),) * (len(result.dims) - 2)
    for name in ("weight", "bias"):
        argument = arguments.get(name)
        context.absorb(node, arguments, name, {0: "writes"})
        vector = context.layout(argument)
        if name == "weight" and vector.dims:
            result = Layout((result.dims[0], *vector.dims, *result.dims[2:]), vector.blocks)
        elif vector.dims:
            result = combine(result, Layout(vector.dims + behind, vector.blocks), context.ledger, reason(node))
    return result


def layer_norm(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Statistics over the last dimensions; weight and bias of their shape."""
    layout = context.layout(arguments["input"])
    rank = len(layout.dims)
    layout = normalize_over(context, node, layout, list(range(rank - len(arguments["normalized_shape"]), rank)))
    return _affine(context, node, layout, arguments, ("weight", "bias"), 0)


def group_norm(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Statistics over the channels of each of G groups: the axis falls apart into G sets of channels."""
    layout = context.layout(arguments["input"])
    groups = arguments["num_groups"]
    shape = result_shape(node)
    context.inhomogeneous(layout)
    split_shape = [shape[0], groups, shape[1] // groups, *shape[2:]]
    split = reshape(layout, split_shape, context.ledger, plain(node))
    split = _in_sets(context, split)
    statistics = reduce(split, range(2, len(split_shape)), context.ledger, plain(node))
    split = combine(split, statistics, context.ledger, reason(node))
    layout = reshape(split, shape, context.ledger, plain(node))
    return _affine(context, node, layout, arguments, ("weight", "bias"), len(shape) - 2)


def _in_sets(context: Context, layout: Layout) -> Layout:
    """Return `[B, G, C, …]` with rigid groups: channels change places within their own only."""
    outer = set(layout.dims[1])
    for block in layout.blocks:
        sets = [leg for leg in block.free if leg in outer]
        if sets and len(sets) < len(block.free):
            context.ledger.separate(block.labels, index_along(block, sets))
            layout = harden(layout, sets, [], "the groups of a GroupNorm")
    return layout


def weight_norm(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`g · v / ‖v‖`, the norm taken over all dimensions but `dim`."""
    direction = context.layout(arguments["v"])
    context.inhomogeneous(direction)
    others = [dim for dim in range(len(direction.dims)) if dim != arguments.get("dim", 0)]
    statistics = reduce(direction, others, context.ledger, plain(node))
    direction = combine(direction, statistics, context.ledger, reason(node))
    result = combine(direction, context.layout(arguments["g"]), context.ledger, reason(node))
    return (result, statistics) if "interface" in str(node.target) else result


RULES: dict[str, Rule] = {
    "aten.batch_norm": batch_norm,
    "aten.instance_norm": batch_norm,
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": layer_norm,
    "aten.group_norm": group_norm,
    "aten._weight_norm": weight_norm,
    "aten._weight_norm_interface": weight_norm,
}
