"""Operations that act on every position by itself, with broadcasting."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Layout
from surgeon.coupling.combine import combine
from surgeon.coupling.context import Context, Rule, Value, reason


def _tensor_arguments(arguments: dict[str, Any]) -> list[fx.Node]:
    return [value for value in arguments.values() if isinstance(value, fx.Node)]


def _unchanged(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Positively homogeneous, or a plain copy: relu, neg, dropout, casts."""
    return context.layout(_tensor_arguments(arguments)[0])


def _curved(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Not homogeneous: sigmoid, gelu, clamp, powers."""
    layout = _meet(context, node, _tensor_arguments(arguments))
    context.inhomogeneous(layout)
    return layout


def _meet(context: Context, node: fx.Node, operands: list[Any]) -> Layout:
    """Combine all operands; one-dimensional parameters among them become affine members."""
    total = Layout(())
    for operand in operands:
        layout = context.layout(operand)
        context.mark(operand, range(len(layout.dims)), "affine")
        total = combine(total, layout, context.ledger, reason(node)) if total.dims or total.blocks else layout
    return total


def _sum(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Addition and subtraction, where a constant summand breaks homogeneity and a parameter (a shift) does not."""
    operands = [arguments["self"], arguments["other"]]
    layout = _meet(context, node, operands)
    for operand in operands:
        constant = context.is_derived(operand) and not context.layout(operand).blocks
        if constant and operand != 0:
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
    """`self + value · tensor1 · tensor2`; homogeneous where at most one factor is an activation and self is one too."""
    layout = _meet(context, node, [arguments["self"], arguments["tensor1"], arguments["tensor2"]])
    factors = [arguments["tensor1"], arguments["tensor2"]]
    if sum(not context.is_derived(factor) for factor in factors) > 1 or "addcdiv" in str(node.target):
        context.inhomogeneous(layout)
    return layout


def extreme_of_two(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Elementwise maximum or minimum: homogeneous, except against a constant."""
    return _sum(context, node, arguments)


def _slope(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """PReLU: one slope a channel (dimension 1), or one for all."""
    layout, weight = context.layout(arguments["self"]), context.layout(arguments["weight"])
    context.mark(arguments["weight"], range(len(weight.dims)), "affine")
    rank = len(layout.dims)
    if rank >= 2 and weight.dims:
        weight = Layout((weight.dims[0],) + ((),) * (rank - 2), weight.blocks)
    return combine(layout, weight, context.ledger, reason(node))


HOMOGENEOUS = """relu leaky_relu neg abs alias clone contiguous to type_as detach dropout feature_dropout alpha_dropout
lift_fresh_copy _to_copy native_dropout rrelu positive view_as_real""".split()
CURVED = """gelu silu sigmoid tanh hardsigmoid hardswish hardtanh relu6 exp exp2 expm1 log log2 log1p sqrt rsqrt pow
square cos sin erf softplus mish elu selu celu clamp clamp_min clamp_max bitwise_not logical_not reciprocal round floor ceil
trunc sign log_sigmoid softsign tanhshrink hardshrink softshrink threshold nan_to_num isnan isinf where masked_fill eq
ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or floor_divide remainder fmod atan2 lerp
cosh sinh tan asin acos atan cbrt frac sigmoid_ erfinv digamma xlogy""".split()

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
}
