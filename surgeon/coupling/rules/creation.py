"""Tensors made from nothing: the same value everywhere, or values with a meaning at each place."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Layout, rigid_layout, uniform_dim
from surgeon.coupling.context import Context, Rule, Value, op_name, result_shape, shape_of


def constant(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Zeros, ones, one number everywhere."""
    zero = "zero" in op_name(node) or arguments.get("fill_value") == 0
    return Layout(tuple(uniform_dim(size) for size in result_shape(node)), zero=zero)


def numbered(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Ranges, grids, identity matrices, random numbers: every place has its own value."""
    if not op_name(node).endswith("_like"):
        for argument in node.all_input_nodes:
            context.freeze(argument, node)
    shape = shape_of(node)
    if shape is not None:
        return rigid_layout(shape, f"the values of {op_name(node)}")
    return tuple(rigid_layout(tuple(value.shape), f"the values of {op_name(node)}") for value in node.meta["val"])


def filled(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """In-place `fill_` and `zero_`: what stood there does not matter any more."""
    return constant(context, node, arguments)


def copied(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """In-place `copy_`: the source, broadcast."""
    source = context.layout(arguments["src"])
    shape = result_shape(node)
    dims = ((),) * (len(shape) - len(source.dims)) + source.dims
    spread = tuple(dim or uniform_dim(size) for dim, size in zip(dims, shape, strict=True))
    return Layout(spread, source.blocks)


CONSTANT = """zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full empty empty_like new_empty
scalar_tensor"""
NUMBERED = "arange linspace eye meshgrid one_hot rand randn rand_like randn_like randperm nonzero lift_fresh"

RULES: dict[str, Rule] = {
    **{f"aten.{name}": constant for name in CONSTANT.split()},
    **{f"aten.{name}": numbered for name in NUMBERED.split()},
    "aten.fill": filled,
    "aten.zero": filled,
    "aten.copy": copied,
}
