"""Operations that act on every position by itself, with broadcasting."""

from typing import Any

import torch
from torch import fx

from surgeon.coupling.axes import Layout, Leg
from surgeon.coupling.combine import combine
from surgeon.coupling.context import Context, Rule, Value, plain, reason, result_shape
from surgeon.coupling.views import take


def _tensor_arguments(arguments: dict[str, Any]) -> list[fx.Node]:
    return [value for value in arguments.values() if isinstance(value, fx.Node)]


def _unchanged(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Positively homogeneous, or a plain copy: relu, neg, dropout, casts to floating dtypes (others round)."""
    layout = context.layout(_tensor_arguments(arguments)[0])
    value = node.meta["val"]
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        context.inhomogeneous(layout)
    return layout


def _curved(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Not homogeneous: sigmoid, gelu, clamp, powers."""
    layout = _meet(context, node, _tensor_arguments(arguments))
    context.inhomogeneous(layout)
    return Layout(layout.dims, layout.blocks)


def _wave(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Sines and cosines of positions, that rotary embeddings multiply queries and keys by."""
    layout = context.layout(arguments["self"])
    if context.is_derived(arguments["self"]) and not layout.blocks:
        meaning = "the sines and cosines of a rotary position embedding"
        legs = [[Leg(leg.size, leg.kind, meaning if leg.meaning else "") for leg in dim] for dim in layout.dims]
        return Layout(tuple(tuple(dim) for dim in legs))
    return _curved(context, node, arguments)


def _meet(context: Context, node: fx.Node, operands: list[Any]) -> Layout:
    """Combine all operands; one-dimensional parameters among them become affine members."""
    total = Layout(())
    for operand in operands:
        layout = context.layout(operand)
        context.mark(operand, range(len(layout.dims)), "affine")
        total = combine(total, layout, context.ledger, reason(node)) if total.dims or total.blocks else layout
    return total


def _sum(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Addition and subtraction: homogeneous if every summand carries the channels (not a constant)."""
    operands = [arguments["self"], arguments["other"]]
    layout = _meet(context, node, operands)
    for operand in operands:
        if operand != 0:
            context.shifted(layout, context.layout(operand))
    if all(isinstance(operand, fx.Node) and context.is_derived(operand) for operand in operands):
        # A weight that is the sum of several: each of them would have to take the factor up.
        context.inhomogeneous(layout)
    return layout


def _product(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Multiplication and division, homogeneous as long as at most one factor carries activations' channels."""
    operands = [arguments["self"], arguments["other"]]
    layout = _meet(context, node, operands)
    live = [o for o in operands if not context.is_derived(o) and context.layout(o).blocks]
    divided = "div" in str(node.target) and live and live[-1] is arguments["other"]
    rounded = arguments.get("rounding_mode") is not None
    if len(live) > 1 or divided or rounded:
        context.inhomogeneous(layout)
    return layout


def _add_product(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`self + value · tensor1 · tensor2`: homogeneous where both summands carry the channels by one activation."""
    factors = [arguments["tensor1"], arguments["tensor2"]]
    product, summand = _meet(context, node, factors), _meet(context, node, [arguments["self"]])
    layout = combine(summand, product, context.ledger, reason(node))
    context.shifted(layout, product)
    context.shifted(layout, summand)
    live = [factor for factor in factors if not context.is_derived(factor) and context.layout(factor).blocks]
    computed = all(context.is_derived(operand) for operand in (arguments["self"], *factors))
    if len(live) > 1 or computed or "addcdiv" in str(node.target):
        context.inhomogeneous(layout)
    return layout


def extreme_of_two(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Elementwise maximum or minimum: homogeneous, except against a constant."""
    return _sum(context, node, arguments)


def _gated(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`glu`: the first half of a dimension times the sigmoid of the second."""
    layout = context.layout(arguments["self"])
    dim = arguments["dim"] % len(layout.dims)
    half = result_shape(node)[dim]
    first = take(layout, dim, 0, half, 1, context.ledger, plain(node))
    second = take(layout, dim, half, 2 * half, 1, context.ledger, plain(node))
    result = combine(first, second, context.ledger, reason(node))
    context.inhomogeneous(result)
    return result


def _slope(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """PReLU: one slope a channel (dimension 1), or one for all; a factor passes it and leaves the slope as it is."""
    layout, weight = context.layout(arguments["self"]), context.layout(arguments["weight"])
    if not context.is_derived(arguments["weight"]):
        context.inhomogeneous(layout, weight)
    elif context.scaling:
        return layout
    context.mark(arguments["weight"], range(len(weight.dims)), "affine")
    rank = len(layout.dims)
    if rank >= 2 and weight.dims:
        weight = Layout((weight.dims[0],) + ((),) * (rank - 2), weight.blocks)
    return combine(layout, weight, context.ledger, reason(node))


HOMOGENEOUS = """relu leaky_relu rrelu neg abs positive alias clone contiguous to _to_copy type_as detach
lift_fresh_copy dropout native_dropout feature_dropout alpha_dropout""".split()

CURVED = """gelu silu mish elu selu celu sigmoid log_sigmoid tanh softplus softsign tanhshrink hardshrink softshrink
hardsigmoid hardswish hardtanh relu6 threshold clamp clamp_min clamp_max exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
pow square reciprocal tan sinh cosh asin acos atan atan2 erf erfinv round floor ceil trunc frac sign remainder
fmod floor_divide lerp where masked_fill nan_to_num isnan isinf eq ne lt le gt ge logical_not logical_and logical_or
logical_xor bitwise_not bitwise_and bitwise_or""".split()

RULES: dict[str, Rule] = {
    **{f"aten.{name}": _unchanged for name in HOMOGENEOUS},
    **{f"aten.{name}": _curved for name in CURVED},
    "aten.add": _sum,
    "aten.sub": _sum,
    "aten.rsub": _sum,
    "aten.mul": _product,
    "aten.div": _product,
    "aten.addcmul": _add_product,
    "aten.addcdiv": _add_product,
    "aten.maximum": extreme_of_two,
    "aten.minimum": extreme_of_two,
    "aten.prelu": _slope,
    "aten.sin": _wave,
    "aten.cos": _wave,
    "aten.glu": _gated,
}
