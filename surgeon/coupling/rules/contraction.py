"""Convolutions, linear layers and products of matrices: weights read the channels of one axis and write another."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import fx

from surgeon.coupling.axes import Block, Kind, Layout, Leg, collapse, mix_dims, rigid_dim, rigid_layout, size_of
from surgeon.coupling.combine import combine, contract
from surgeon.coupling.context import Context, Rule, Use, Value, Way, Weight, plain, reason, result_shape, shape_of
from surgeon.coupling.views import reshape

PIXELS = "positions in the image"
SEQUENCE = "positions in a sequence"
KERNEL = "A kernel's positions are no channels."


def linear(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`input [..., I]`, `weight [O, I]` → `[..., O]`."""
    layout, weight = context.layout(arguments["input"]), context.layout(arguments["weight"])
    batch = [f"b{dim}" for dim in range(len(layout.dims) - 1)]
    letters = ["o", "i"][2 - len(weight.dims) :]
    context.mark(arguments["weight"], [letters.index("i")], "consumer")
    context.mark(arguments["weight"], [dim for dim, letter in enumerate(letters) if letter == "o"], "producer")
    ways: dict[int, Way] = {dim: "reads" if letter == "i" else "writes" for dim, letter in enumerate(letters)}
    context.absorb(node, arguments, "weight", ways)
    tokens = math.prod(result_shape(node)[1:-1])
    computed = _computed(context, arguments["weight"])
    context.uses.append(Use(context.module, context.key(arguments["weight"]), 0, 1, False, tokens, computed))
    operands = [(arguments["input"], layout, [*batch, "i"]), (arguments["weight"], weight, letters)]
    result = _contract(context, node, operands, [*batch, *letters[:-1]])
    return _add_bias(context, node, result, arguments, dim=-1) if result.dims else result


def _computed(context: Context, weight: Any) -> int:
    """Return the number of a weight's entries, where it is computed from parameters; else 0."""
    if context.key(weight) is not None or not context.is_derived(weight):
        return 0
    return math.prod(shape_of(weight) or (0,))


Operand = tuple[Any, Layout, Sequence[str]]
"""An argument of a contraction, its layout, and a letter for each dimension."""


def _contract(context: Context, node: fx.Node, operands: Sequence[Operand], output: Sequence[str]) -> Layout:
    """Contract the operands; where several activations carry channels, a factor on one meets those of the others."""
    live = [layout for argument, layout, _ in operands if not context.is_derived(argument) and layout.blocks]
    if len(live) > 1:
        context.inhomogeneous(*live)
    return contract([(layout, names) for _, layout, names in operands], output, context.ledger, reason(node))


def _add_bias(
    context: Context, node: fx.Node, result: Layout, arguments: dict[str, Any], dim: int, depthwise: bool = False
) -> Layout:
    """Add the bias along `dim` and remember which parameters wrote this node."""
    bias = arguments.get("bias")
    if bias is not None:
        layout = context.layout(bias)
        context.mark(bias, range(len(layout.dims)), "affine")
        context.absorb(node, arguments, "bias", {0: "writes"})
        rank = len(result.dims)
        behind = rank - 1 - (dim % rank)
        layout = Layout(layout.dims + ((),) * behind, layout.blocks)
        result = combine(result, layout, context.ledger, reason(node))
        context.shifted(result, layout)
    key = context.key(arguments["weight"])
    if key is not None and (bias is None or context.key(bias) is not None):
        context.writers[node] = Weight(key, context.key(bias), depthwise)
    return result


def convolution(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`input [B, I, …]`, `weight [O, I/g, …]` (transposed: `[I, O/g, …]`) → `[B, O, …]`; kernels mix neighbours."""
    transposed = "transpose" in str(node.target) or bool(arguments.get("transposed"))
    groups = arguments.get("groups", 1)
    layout, weight = context.layout(arguments["input"]), context.layout(arguments["weight"])
    shape = result_shape(node)
    if len(layout.dims) != len(shape) or len(weight.dims) != len(shape):
        context.freeze(arguments["weight"], node)
        context.freeze(arguments["input"], node)
        return rigid_layout(shape, "the result of an unbatched convolution")
    spatial = range(2, len(shape))
    mixed = [dim for dim in spatial if not _is_pointwise(arguments, dim, transposed)]
    apart = [dim for dim in spatial if dim not in mixed]
    meaning = PIXELS if len(spatial) > 1 else SEQUENCE
    layout = mix_dims(layout, mixed, context.ledger, plain(node), meaning)
    weight = mix_dims(weight, spatial, context.ledger, KERNEL, "positions in a kernel")
    # The contraction sees no position that the kernel mixes: those are rigid, and the result gets its own.
    layout = _drop_dims(layout, mixed, context)
    weight = _drop_dims(weight, spatial, context)
    kept = [f"s{dim}" for dim in apart]
    reads, writes = size_of(layout.dims[1]), shape[1]
    depthwise = groups == reads and groups > 1
    context.mark(arguments["weight"], [1 if transposed else 0], "affine" if depthwise else "producer")
    context.mark(arguments["weight"], [0 if transposed else 1], "affine" if depthwise else "consumer")
    filters, key = int(transposed), context.key(arguments["weight"])
    applied = math.prod((shape_of(arguments["input"]) or ())[2:] if transposed else shape[2:])
    context.uses.append(
        Use(context.module, key, filters, groups, True, applied, _computed(context, arguments["weight"]))
    )
    if not depthwise:
        context.absorb(node, arguments, "weight", {filters: "writes", 1 - filters: "reads"})
    if depthwise and context.scaling and key is not None and not weight.dims[1]:
        _read_apart(context, node, key, layout)
        context.absorb(node, arguments, "weight", {0: "depthwise"})
        rigid = (rigid_dim(shape[dim], meaning) for dim in apart)
        result = Layout((rigid_dim(shape[0], "images"), weight.dims[0], *rigid), weight.blocks)
    elif groups == 1:
        letters = ["i", "o"] if transposed else ["o", "i"]
        operands = [(arguments["input"], layout, ["b", "i", *kept]), (arguments["weight"], weight, letters)]
        result = _contract(context, node, operands, ["b", "o", *kept])
    else:
        outer = size_of(weight.dims[0]) // groups
        sizes = [shape[dim] for dim in apart]
        split_shape = [size_of(layout.dims[0]), groups, reads // groups, *sizes]
        split = reshape(layout, split_shape, context.ledger, plain(node))
        weight = reshape(weight, [groups, outer, size_of(weight.dims[1])], context.ledger, plain(node))
        letters = ["g", "i", "o"] if transposed else ["g", "o", "i"]
        operands = [(arguments["input"], split, ["b", "g", "i", *kept]), (arguments["weight"], weight, letters)]
        result = _contract(context, node, operands, ["b", "g", "o", *kept])
        result = reshape(result, [shape[0], writes, *sizes], context.ledger, plain(node))
    behind = {dim: result.dims[2 + place] for place, dim in enumerate(apart)}
    image = tuple(behind[dim] if dim in behind else rigid_dim(shape[dim], meaning) for dim in spatial)
    result = Layout(result.dims[:2] + image, result.blocks)
    return _add_bias(context, node, result, arguments, dim=1, depthwise=depthwise)


def _read_apart(context: Context, node: fx.Node, key: str, layout: Layout) -> None:
    """State that a depthwise kernel reads these channels by elements of its own: it is divided by their factor."""
    leg = Leg(size_of(layout.dims[1]), Kind.FREE)
    elements = context.reads.setdefault(key, context.ledger.fresh(leg.size))
    behind = ((),) * (len(layout.dims) - 2)
    combine(layout, Layout(((), (leg,), *behind), (Block((leg,), elements),)), context.ledger, reason(node))


def _is_pointwise(arguments: dict[str, Any], dim: int, transposed: bool) -> bool:
    """Return whether the kernel leaves the positions of `dim` apart: size 1, stride 1, no padding."""
    kernel = (shape_of(arguments["weight"]) or ())[dim]
    padding = arguments.get("padding", 0)
    if isinstance(padding, str):
        padding = 0

    def along(value: Any) -> int:
        return int(value if isinstance(value, int) else value[(dim - 2) % len(value)])

    grown = along(arguments["output_padding"]) if transposed and "output_padding" in arguments else 0
    return kernel == 1 and along(arguments["stride"]) == 1 and along(padding) == 0 and grown == 0


def _drop_dims(layout: Layout, dims: Iterable[int], context: Context) -> Layout:
    """Drop (rigid) dimensions; a block that still selects along one joins over it."""
    dropped = set(dims)
    gone = [leg for dim in dropped for leg in layout.dims[dim]]
    blocks = [collapse(b, [leg for leg in b.legs if leg in gone], context.ledger) for b in layout.blocks]
    return Layout(tuple(legs for dim, legs in enumerate(layout.dims) if dim not in dropped), tuple(blocks))


def matmul(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Batched product of matrices, or of a matrix and a vector, with broadcasting over the leading dimensions."""
    names = [name for name in ("self", "other", "mat2", "vec", "tensor") if name in arguments]
    first, second = (context.layout(arguments[name]) for name in names[:2])
    return product(context, node, arguments[names[0]], arguments[names[1]], first, second)


def product(context: Context, node: fx.Node, left: Any, right: Any, first: Layout, second: Layout) -> Layout:
    """Return the layout of `first @ second`."""
    left_batch = [f"b{len(first.dims) - 3 - d}" for d in range(len(first.dims) - 2)]
    right_batch = [f"b{len(second.dims) - 3 - d}" for d in range(len(second.dims) - 2)]
    batch = left_batch if len(left_batch) >= len(right_batch) else right_batch
    left_names = [*left_batch, "r", "k"] if len(first.dims) > 1 else ["k"]
    right_names = [*right_batch, "k", "c"] if len(second.dims) > 1 else ["k"]
    output = [*batch, *(["r"] if len(first.dims) > 1 else []), *(["c"] if len(second.dims) > 1 else [])]
    for operand, names in ((left, left_names), (right, right_names)):
        if isinstance(operand, fx.Node) and len(names) > 1:
            context.mark(operand, [names.index("k")], "consumer")
            context.mark(operand, [d for d, name in enumerate(names) if name in ("r", "c")], "producer")
    return _contract(context, node, [(left, first, left_names), (right, second, right_names)], output)


def add_product(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`addmm` and `baddbmm`: a summand and a product."""
    names = ("mat1", "mat2") if "mat1" in arguments else ("batch1", "batch2")
    first, second = (context.layout(arguments[name]) for name in names)
    result = product(context, node, arguments[names[0]], arguments[names[1]], first, second)
    summand = context.layout(arguments["self"])
    context.mark(arguments["self"], range(len(summand.dims)), "affine")
    total = combine(result, summand, context.ledger, reason(node))
    context.shifted(total, result)
    context.shifted(total, summand)
    if all(context.is_derived(arguments[name]) for name in ("self", *names)):
        context.inhomogeneous(total)
    return total


def einsum(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """An explicit einsum without repeated letters in one operand; others freeze."""
    equation, operands = arguments["equation"].replace(" ", ""), list(arguments["tensors"])
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    plain_terms = [term.replace("...", "") for term in terms]
    if not arrow or any(len(set(term)) != len(term) for term in plain_terms):
        for operand in operands:
            context.freeze(operand, node)
        return rigid_layout(result_shape(node), "the result of an einsum")
    layouts = [context.layout(operand) for operand in operands]
    spread = max(len(la.dims) - len(te) for la, te in zip(layouts, plain_terms, strict=True)) if "..." in inputs else 0

    def letters(term: str, rank: int) -> list[str]:
        if "..." not in term:
            return list(term)
        before, after = term.split("...")
        count = rank - len(before) - len(after)
        return [*before, *(f"dots{spread - count + i}" for i in range(count)), *after]

    names = [letters(term, len(layout.dims)) for term, layout in zip(terms, layouts, strict=True)]
    result = letters(output, len(result_shape(node)))
    for operand, operand_names in zip(operands, names, strict=True):
        context.mark(operand, [d for d, name in enumerate(operand_names) if name not in result], "consumer")
        context.mark(operand, [d for d, name in enumerate(operand_names) if name in result], "producer")
    return _contract(context, node, list(zip(operands, layouts, names, strict=True)), result)


RULES: dict[str, Rule] = {
    "aten.linear": linear,
    **{f"aten.{name}": convolution for name in ("conv1d", "conv2d", "conv3d", "convolution")},
    **{f"aten.conv_transpose{rank}d": convolution for rank in (1, 2, 3)},
    **{f"aten.{name}": matmul for name in ("matmul", "mm", "bmm", "mv", "dot")},
    "aten.addmm": add_product,
    "aten.baddbmm": add_product,
    "aten.einsum": einsum,
}
