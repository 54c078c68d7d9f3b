"""Attention in one operation, and softmax: built from products and sums."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Layout, mix_dims, reduce, size_of, uniform_dim
from surgeon.coupling.combine import combine, contract
from surgeon.coupling.context import Context, Rule, Value, plain, reason, result_shape


def softmax(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Every position is divided by a sum over `dim`."""
    layout = context.layout(arguments["self"])
    return normalize_over(context, node, layout, [arguments["dim"] % max(1, len(layout.dims))])


def normalize_over(context: Context, node: fx.Node, layout: Layout, dims: list[int]) -> Layout:
    """Return the layout of a tensor combined with a reduction of itself over `dims`."""
    context.inhomogeneous(layout)
    statistics = reduce(layout, dims, context.ledger, plain(node))
    return combine(layout, statistics, context.ledger, reason(node))


def scaled_dot_product(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`softmax(query · keyᵀ + mask) · value`, each `[..., tokens, channels]`."""
    names = ("query", "key", "value")
    query, key, value = (context.layout(arguments[name]) for name in names)
    if arguments.get("enable_gqa"):
        key, value = (_shared_heads(query, part) for part in (key, value))
    if arguments.get("is_causal"):
        query, key, value = (
            mix_dims(part, [len(part.dims) - 2], context.ledger, plain(node), "tokens in an order")
            for part in (query, key, value)
        )
    context.inhomogeneous(query, key)
    rank = len(result_shape(node))

    def batch(layout: Layout) -> list[str]:
        return [f"b{rank - len(layout.dims) + dim}" for dim in range(len(layout.dims) - 2)]

    heads = [f"b{dim}" for dim in range(rank - 2)]
    scores = contract(
        [(query, [*batch(query), "q", "c"]), (key, [*batch(key), "k", "c"])],
        [*heads, "q", "k"],
        context.ledger,
        reason(node),
    )
    if arguments.get("attn_mask") is not None:
        mask = context.layout(arguments["attn_mask"])
        context.mark(arguments["attn_mask"], range(len(mask.dims)), "affine")
        scores = combine(scores, mask, context.ledger, reason(node))
    weights = normalize_over(context, node, scores, [len(scores.dims) - 1])
    return contract(
        [(weights, [*heads, "q", "k"]), (value, [*batch(value), "k", "v"])],
        [*heads, "q", "v"],
        context.ledger,
        reason(node),
    )


def _shared_heads(query: Layout, shared: Layout) -> Layout:
    """Return keys or values `[..., heads, tokens, channels]` with each head repeated for the queries that share it."""
    heads = size_of(query.dims[-3]) // size_of(shared.dims[-3])
    return Layout((*shared.dims[:-3], shared.dims[-3] + uniform_dim(heads), *shared.dims[-2:]), shared.blocks)


RULES: dict[str, Rule] = {
    **{f"aten.{name}": softmax for name in ("softmax", "_softmax", "log_softmax", "_log_softmax")},
    "aten.scaled_dot_product_attention": scaled_dot_product,
}
