"""Sums, means, norms and extremes over dimensions."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Layout, reduce, rigid_layout
from surgeon.coupling.context import Context, Rule, Value, plain, result_shape, shape_of
from surgeon.coupling.rules.pointwise import extreme_of_two
from surgeon.coupling.views import without_dims


def _reduced(context: Context, node: fx.Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> Layout:
    layout = context.layout(arguments["self"])
    rank = len(layout.dims)
    dims = arguments.get("dim")
    if dims is None or dims == []:
        dims = list(range(rank))
    chosen = {dim % max(1, rank) for dim in ([dims] if isinstance(dims, int) else dims)} if rank else set()
    result = reduce(layout, chosen, context.ledger, plain(node))
    return result if len(shape) == rank else without_dims(result, chosen)


def homogeneous(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Sum, mean, maximum: a factor on every summand is a factor on the result, unless it differs between summands."""
    return _homogeneous(context, node, arguments, result_shape(node))


def _homogeneous(context: Context, node: fx.Node, arguments: dict[str, Any], shape: tuple[int, ...]) -> Layout:
    result = _reduced(context, node, arguments, shape)
    left = {leg for block in result.blocks for leg in block.free}
    for block in context.layout(arguments["self"]).blocks:
        if not left & set(block.free):
            context.ledger.note_inhomogeneous(block.labels, context.bend)
    return result


def curved(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Norm, variance and the like: what follows (a division) is not homogeneous channel by channel."""
    context.inhomogeneous(context.layout(arguments["self"]))
    shape = shape_of(node)
    if shape is not None:
        return _reduced(context, node, arguments, shape)
    values = node.meta["val"]
    result = _reduced(context, node, arguments, tuple(values[0].shape))
    return (result,) * len(values)


def extreme(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Maximum or minimum over one dimension, with the index where it stands."""
    shape = result_shape(node) if shape_of(node) is not None else tuple(node.meta["val"][0].shape)
    if "other" in arguments:
        return extreme_of_two(context, node, arguments)
    if "dim" not in arguments:
        return homogeneous(context, node, arguments)
    values = _homogeneous(context, node, arguments, shape)
    # The indices say where along `dim` the extreme stands, so those positions cannot move.
    if any(user.users for user in node.users if len(user.args) > 1 and user.args[1] == 1):
        context.freeze(arguments["self"], node)
    return values, rigid_layout(shape, "indices")


def position_of(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Arg-extremes and sorting depend on the positions themselves."""
    context.freeze(arguments["self"], node)
    value = node.meta["val"]
    if isinstance(value, (tuple, list)):
        return tuple(rigid_layout(tuple(item.shape), "sorted positions") for item in value)
    return rigid_layout(result_shape(node), "indices")


RULES: dict[str, Rule] = {
    **{f"aten.{name}": homogeneous for name in ("sum", "mean", "amax", "amin")},
    **{
        f"aten.{name}": curved
        for name in "linalg_vector_norm norm var std var_mean std_mean prod all any logsumexp".split()
    },
    "aten.max": extreme,
    "aten.min": extreme,
    **{f"aten.{name}": position_of for name in ("argmax", "argmin", "argsort", "sort", "topk")},
}
