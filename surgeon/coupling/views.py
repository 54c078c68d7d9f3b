"""Operations that show a tensor's entries in another shape or order: splitting, merging, cutting dimensions."""

import itertools
from collections.abc import Iterable, Sequence

from surgeon.coupling.axes import (
    Block,
    Kind,
    Layout,
    Leg,
    collapse,
    freeze_blocks,
    rigid_layout,
    size_of,
    substitute,
    uniform_dim,
)
from surgeon.coupling.ledger import LARGEST_COPY, Ledger


def split_leg(layout: Layout, leg: Leg, sizes: Sequence[int]) -> Layout:
    """Return the layout with one leg written as a row-major product of legs of the given sizes (ones are dropped)."""
    parts = tuple(Leg(size, leg.kind, leg.meaning) for size in sizes if size != 1)
    blocks = []
    for block in layout.blocks:
        if leg in block.legs:
            at = block.legs.index(leg)
            shape = block.labels.shape
            labels = block.labels.reshape(*shape[:at], *(part.size for part in parts), *shape[at + 1 :])
            block = Block((*block.legs[:at], *parts, *block.legs[at + 1 :]), labels)
        blocks.append(block)
    return substitute(layout, {leg: parts}, blocks)


def merge_legs(layout: Layout, legs: Sequence[Leg], ledger: Ledger, reason: str) -> tuple[Layout, Leg | None]:
    """Return the layout with neighbouring legs of one dimension written as one leg, and that leg (None for size 1).

    Where a free leg meets a rigid or uniform one, every channel is copied along it: (channel, place) pairs become the
    positions. Free legs of several blocks cannot be written as one; they are frozen.
    """
    if len(legs) <= 1:
        return layout, legs[0] if legs else None
    owners = [block for block in layout.blocks if any(leg in block.free for leg in legs)]
    size = size_of(legs)
    if len(owners) > 1 or any(size * size_of(set(block.legs) - set(legs)) > LARGEST_COPY for block in owners):
        dim = next(index for index, dim in enumerate(layout.dims) if legs[0] in dim)
        at = layout.dims[dim].index(legs[0])
        layout = freeze_blocks(layout, owners, ledger, reason, "channels of several groups in one axis")
        return merge_legs(layout, layout.dims[dim][at : at + len(legs)], ledger, reason)
    if not owners:
        kind = Kind.UNIFORM if all(leg.kind is Kind.UNIFORM for leg in legs) else Kind.RIGID
        merged = Leg(size, kind, next((leg.meaning for leg in legs if leg.meaning), ""))
        blocks = [collapse(block, [leg for leg in legs if leg in block.legs], ledger) for block in layout.blocks]
        return _join(layout, legs, merged, blocks), merged
    owner = owners[0]
    merged = Leg(size, Kind.FREE)
    rest = [leg for leg in owner.legs if leg not in legs]
    # Bring the block's axes into the order (rest, legs); legs that are not in the block become copies.
    present = [leg for leg in legs if leg in owner.legs]
    labels = owner.labels.transpose([owner.legs.index(leg) for leg in [*rest, *present]])
    shape = [leg.size for leg in rest] + [leg.size if leg in owner.legs else 1 for leg in legs]
    labels = labels.reshape(shape)
    if len(present) < len(legs):
        labels = ledger.copy(labels, *(leg.size for leg in rest), *(leg.size for leg in legs))
    joined = Block((*rest, merged), labels.reshape(*(leg.size for leg in rest), size))
    blocks = []
    for block in layout.blocks:
        if block is owner:
            blocks.append(joined)
        else:
            blocks.append(collapse(block, [leg for leg in legs if leg in block.legs], ledger))
    return _join(layout, legs, merged, blocks), merged


def _join(layout: Layout, legs: Sequence[Leg], merged: Leg, blocks: Iterable[Block]) -> Layout:
    exchange: dict[Leg, tuple[Leg, ...]] = dict.fromkeys(legs[1:], ())
    exchange[legs[0]] = (merged,)
    return substitute(layout, exchange, blocks)


def merge_dim(layout: Layout, dim: int, ledger: Ledger, reason: str) -> tuple[Layout, Leg | None]:
    """Return the layout with dimension `dim` written as one leg, and that leg (None for size 1)."""
    return merge_legs(layout, layout.dims[dim], ledger, reason)


def reshape(layout: Layout, shape: Sequence[int], ledger: Ledger, reason: str) -> Layout:
    """Return the layout of the tensor seen in another shape with the same number of entries."""
    if size_of(leg for dim in layout.dims for leg in dim) == 0 or 0 in shape:
        return rigid_layout(shape, "an empty tensor")
    flat = Layout((tuple(leg for dim in layout.dims for leg in dim),), layout.blocks)
    bounds = [size for size in shape if size != 1]
    flat = _cut(flat, 0, bounds, ledger, reason)
    dims: list[tuple[Leg, ...]] = []
    legs = list(flat.dims[0])
    for size in shape:
        taken: list[Leg] = []
        while size_of(taken) < size:
            taken.append(legs.pop(0))
        dims.append(tuple(taken))
    return Layout(tuple(dims), flat.blocks)


def _cut(layout: Layout, dim: int, sizes: Sequence[int], ledger: Ledger, reason: str) -> Layout:
    """Split (and where the factors do not nest, merge) the legs of `dim` so that they fall apart into `sizes`."""
    strides = {1}
    for size in reversed(sizes):
        strides.add(max(strides) * size)
    legs = layout.dims[dim]
    stride = 1
    for index in range(len(legs) - 1, -1, -1):
        leg = legs[index]
        inside = sorted(s for s in strides if stride < s < stride * leg.size)
        chain = [stride, *inside, stride * leg.size]
        if all(big % small == 0 for small, big in itertools.pairwise(chain)):
            if inside:
                factors = [big // small for small, big in itertools.pairwise(chain)]
                layout = split_leg(layout, leg, factors[::-1])
            stride *= leg.size
        else:
            # The cut falls inside a leg in a way that its factors do not allow: write it with the neighbour it fits.
            start = index if inside[0] % stride else index - 1
            assert 0 <= start < len(legs) - 1, f"cannot cut {[leg.size for leg in legs]} into {list(sizes)}"
            layout, _ = merge_legs(layout, legs[start : start + 2], ledger, reason)
            return _cut(layout, dim, sizes, ledger, reason)
    return layout


def refine(first: Layout, second: Layout, dim: int, ledger: Ledger, reason: str) -> tuple[Layout, Layout]:
    """Return both layouts with dimension `dim` written in legs of the same sizes."""
    sizes = [tuple(leg.size for leg in layout.dims[dim]) for layout in (first, second)]
    if sizes[0] == sizes[1] or not sizes[0] or not sizes[1]:
        return first, second
    strides = sorted(_strides(sizes[0]) | _strides(sizes[1]))
    if all(big % small == 0 for small, big in itertools.pairwise(strides)):
        factors = [big // small for small, big in itertools.pairwise(strides)][::-1]
        return (_cut(first, dim, factors, ledger, reason), _cut(second, dim, factors, ledger, reason))
    first, _ = merge_dim(first, dim, ledger, reason)
    second, _ = merge_dim(second, dim, ledger, reason)
    return first, second


def _strides(sizes: Sequence[int]) -> set[int]:
    result = {1}
    stride = 1
    for size in reversed(sizes):
        stride *= size
        result.add(stride)
    return result


def permute(layout: Layout, order: Sequence[int]) -> Layout:
    """Return the layout with its dimensions in another order."""
    return Layout(tuple(layout.dims[dim] for dim in order), layout.blocks)


def expand(layout: Layout, shape: Sequence[int]) -> Layout:
    """Return the layout broadcast to `shape`: new and stretched dimensions repeat the same values."""
    missing = len(shape) - len(layout.dims)
    dims = [uniform_dim(size) for size in shape[:missing]]
    for dim, size in zip(layout.dims, shape[missing:], strict=True):
        dims.append(dim if dim else uniform_dim(size))
    return Layout(tuple(dims), layout.blocks, layout.zero)


def without_dims(layout: Layout, gone: Iterable[int]) -> Layout:
    """Return the layout without dimensions that have no legs left."""
    dropped = set(gone)
    return Layout(tuple(dim for index, dim in enumerate(layout.dims) if index not in dropped), layout.blocks)


def take(layout: Layout, dim: int, start: int, stop: int, step: int, ledger: Ledger, reason: str) -> Layout:
    """Return the layout of `tensor[start:stop:step]` along `dim`: a cut, that permutations may not cross."""
    legs = layout.dims[dim]
    size = size_of(legs)
    if start == 0 and stop >= size and step == 1:
        return layout
    if len(legs) > 1:
        inner = size_of(legs[1:])
        if step == 1 and start % inner == 0 and stop % inner == 0:
            return _take_leg(layout, dim, legs[0], slice(start // inner, stop // inner), ledger, reason)
        layout, leg = merge_dim(layout, dim, ledger, reason)
        assert leg is not None
        return _take_leg(layout, dim, leg, slice(start, stop, step), ledger, reason)
    return _take_leg(layout, dim, legs[0], slice(start, stop, step), ledger, reason) if legs else layout


def _take_leg(layout: Layout, dim: int, leg: Leg, cut: slice, ledger: Ledger, reason: str) -> Layout:
    length = len(range(*cut.indices(leg.size)))
    if length == 0:
        return rigid_layout([0 if d == dim else size_of(legs) for d, legs in enumerate(layout.dims)], "an empty tensor")
    parts = (Leg(length, leg.kind, leg.meaning),) if length != 1 else ()
    blocks = []
    for block in layout.blocks:
        if leg in block.legs:
            at = block.legs.index(leg)
            labels = block.labels[(slice(None),) * at + (cut,)]
            if leg.kind is Kind.FREE:
                ledger.separate(labels)
            legs_after = (*block.legs[:at], *parts, *block.legs[at + 1 :])
            block = Block(legs_after, labels if parts else labels.squeeze(at))
            if not block.free:
                # One channel by itself has no axis that what reads it could be divided along.
                ledger.note_inhomogeneous(block.labels, reason)
                continue
        blocks.append(block)
    return substitute(layout, {leg: parts}, blocks)
