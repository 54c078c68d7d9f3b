"""Operations that mix neighbouring positions of the last dimensions: pooling, resizing, padding, unfolding."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Kind, Layout, Leg, mix_dims, rigid_dim
from surgeon.coupling.concatenate import concatenate
from surgeon.coupling.context import Context, Rule, Value, op_name, plain, reason, result_shape, shape_of
from surgeon.coupling.rules.contraction import PIXELS
from surgeon.coupling.views import permute, reshape, take


def _mixed(context: Context, node: fx.Node, layout: Layout, count: int, shape: tuple[int, ...]) -> Layout:
    """Return the layout with the last `count` dimensions mixed and of new sizes."""
    rank = len(layout.dims)
    mixed = mix_dims(layout, range(rank - count, rank), context.ledger, plain(node), PIXELS)
    gone = {leg for dim in mixed.dims[rank - count :] for leg in dim}
    if any(gone & set(block.legs) for block in mixed.blocks):
        mixed = context.freeze(node.args[0], node)
    return Layout(mixed.dims[: rank - count] + tuple(rigid_dim(size, PIXELS) for size in shape[-count:]), mixed.blocks)


def _over_last(count: int) -> Rule:
    def rule(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
        layout = context.layout(arguments["self"] if "self" in arguments else arguments["input"])
        shape = shape_of(node)
        if shape is not None:
            return _mixed(context, node, layout, count, shape)
        # The second result holds every channel's places in the image.
        values = node.meta["val"]
        return (_mixed(context, node, layout, count, tuple(values[0].shape)),) * len(values)

    return rule


def pad(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Constant padding joins constants to a dimension (zero-padded shortcuts); other kinds mix its positions."""
    layout = context.layout(arguments["self"])
    rank = len(layout.dims)
    amounts = arguments["pad"]
    shape = list(shape_of(arguments["self"]) or ())
    constant = arguments.get("mode", "constant") == "constant"
    for index in range(len(amounts) // 2):
        dim = rank - 1 - index
        before, after = amounts[2 * index], amounts[2 * index + 1]
        if before == after == 0:
            continue
        if not constant:
            layout = mix_dims(layout, [dim], context.ledger, plain(node), PIXELS)
            dims = list(layout.dims)
            dims[dim] = rigid_dim(shape[dim] + before + after, PIXELS)
            layout = Layout(tuple(dims), layout.blocks)
        else:
            if before < 0 or after < 0:
                stop = shape[dim] + min(after, 0)
                layout = take(layout, dim, max(-before, 0), stop, 1, context.ledger, plain(node))
            zero = arguments.get("value") in (None, 0, 0.0)
            layout = _surround(context, node, layout, dim, (max(before, 0), max(after, 0)), zero=zero)
        shape[dim] += before + after
    return layout


def _surround(
    context: Context, node: fx.Node, layout: Layout, dim: int, amounts: tuple[int, int], *, zero: bool
) -> Layout:
    def constant(size: int) -> Layout:
        # Only `dim` has a size of its own; along the others, and along it, the constant is the same everywhere.
        leg = Leg(size, Kind.UNIFORM, f"the padding {node.name}")
        return Layout(tuple((leg,) if d == dim else () for d in range(len(layout.dims))), zero=zero)

    before, after = amounts
    pieces = [constant(before)] * bool(before) + [layout] + [constant(after)] * bool(after)
    return concatenate(pieces, dim, context.ledger, reason(node), context.bend)


def unfold_patches(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`im2col`: `[B, C, H, W]` → `[B, C·kh·kw, L]`."""
    layout = _mixed(context, node, context.layout(arguments["self"]), 2, (1, 1))
    shape = result_shape(node)
    kernel = shape[1] // (shape_of(arguments["self"]) or ())[1]
    dims = (layout.dims[0], layout.dims[1] + rigid_dim(kernel, "positions in a kernel"), rigid_dim(shape[2], PIXELS))
    return Layout(dims, layout.blocks)


def fold_patches(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`col2im`: `[B, C·kh·kw, L]` → `[B, C, H, W]`."""
    source = shape_of(arguments["self"]) or ()
    shape = result_shape(node)
    kernel = source[1] // shape[1]
    layout = reshape(
        context.layout(arguments["self"]), [source[0], shape[1], kernel, source[2]], context.ledger, plain(node)
    )
    return _mixed(context, node, layout, 2, shape)


def windows(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`unfold`: sliding windows along one dimension, put last."""
    layout = context.layout(arguments["self"])
    shape = result_shape(node)
    dim = arguments["dimension"] % len(layout.dims)
    layout = mix_dims(layout, [dim], context.ledger, plain(node), PIXELS)
    gone = set(layout.dims[dim])
    if any(gone & set(block.legs) for block in layout.blocks):
        layout = context.freeze(arguments["self"], node)
    dims = [rigid_dim(shape[dim], PIXELS) if d == dim else legs for d, legs in enumerate(layout.dims)]
    return Layout((*dims, rigid_dim(shape[-1], PIXELS)), layout.blocks)


def reordered(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """Flip, roll, cumulative sums: the order along the dimensions matters."""
    layout = context.layout(arguments["self"])
    if op_name(node) in ("aten.cumprod", "aten.logcumsumexp"):
        context.inhomogeneous(layout)
    rank = len(layout.dims)
    dims = arguments.get("dims", arguments.get("dim"))
    chosen = list(range(rank)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    chosen = [dim % rank for dim in chosen]
    layout = mix_dims(layout, chosen, context.ledger, plain(node), "positions in an order")
    gone = {leg for dim in chosen for leg in layout.dims[dim]}
    if any(gone & set(block.legs) for block in layout.blocks):
        return context.freeze(arguments["self"], node)
    return layout


def pixel_shuffle(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`[B, C·r², H, W]` → `[B, C, H·r, W·r]`."""
    factor = arguments["upscale_factor"]
    *batch, channels, height, width = shape_of(arguments["self"]) or ()
    split = [*batch, channels // factor**2, factor, factor, height, width]
    layout = reshape(context.layout(arguments["self"]), split, context.ledger, plain(node))
    n = len(batch)
    layout = permute(layout, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return reshape(layout, result_shape(node), context.ledger, plain(node))


def pixel_unshuffle(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`[B, C, H·r, W·r]` → `[B, C·r², H, W]`."""
    factor = arguments["downscale_factor"]
    *batch, channels, height, width = shape_of(arguments["self"]) or ()
    split = [*batch, channels, height // factor, factor, width // factor, factor]
    layout = reshape(context.layout(arguments["self"]), split, context.ledger, plain(node))
    n = len(batch)
    layout = permute(layout, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return reshape(layout, result_shape(node), context.ledger, plain(node))


def channel_shuffle(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """`[B, g·C, …]` seen as `[B, g, C, …]`, transposed."""
    shape = result_shape(node)
    groups = arguments["groups"]
    split = [shape[0], groups, shape[1] // groups, *shape[2:]]
    layout = reshape(context.layout(arguments["self"]), split, context.ledger, plain(node))
    layout = permute(layout, [0, 2, 1, *range(3, len(split))])
    return reshape(layout, shape, context.ledger, plain(node))


POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "fractional_max_pool", "lp_pool")

RULES: dict[str, Rule] = {
    **{f"aten.{name}{rank}d": _over_last(rank) for name in POOLS for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices": _over_last(rank) for rank in (1, 2, 3)},
    "aten.upsample_linear1d": _over_last(1),
    "aten.upsample_nearest1d": _over_last(1),
    **{
        f"aten.{name}": _over_last(2)
        for name in """upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa
        _upsample_bilinear2d_aa _upsample_nearest_exact2d""".split()
    },
    **{f"aten.{name}": _over_last(3) for name in ("upsample_nearest3d", "upsample_trilinear3d")},
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    "aten.im2col": unfold_patches,
    "aten.col2im": fold_patches,
    "aten.unfold": windows,
    **{f"aten.{name}": reordered for name in ("flip", "roll", "cumsum", "cumprod", "logcumsumexp")},
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
    "aten.channel_shuffle": channel_shuffle,
}
