"""How the dimensions of a tensor are made of channels: legs, blocks and layouts, and what operations do to them.

Every dimension of a tensor is a row-major product of *legs*. A leg is

- *free*: its positions are channels, and some block says which;
- *rigid*: its positions have a meaning of their own (a pixel, a head, an image of the batch);
- *uniform*: the tensor repeats the same values along it (a broadcast).

A *block* names the elements that lie along one or several legs, at least one of them free. Its rigid legs are
selectors: for each of their positions the free legs hold other elements, that cannot change places between them.
A dimension of size 1 has no legs. Layouts are immutable; the functions here return new ones and write what they learn
about elements into the ledger.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from surgeon.coupling.ledger import LARGEST_COPY, Elements, Ledger

SMALL_LEG = 8
"""An inner leg below this size (pixel-shuffle factors, kernel places) gives way to a larger outer one."""


class Kind(Enum):
    """What a leg's positions are."""

    FREE = "free"
    RIGID = "rigid"
    UNIFORM = "uniform"


@dataclass(frozen=True, eq=False)
class Leg:
    """One factor of a dimension; two legs are the same only if they are the same object."""

    size: int
    kind: Kind
    meaning: str = ""


@dataclass(frozen=True, eq=False)
class Block:
    """The elements along some legs: `labels` has one axis for each leg, and no element twice."""

    legs: tuple[Leg, ...]
    labels: Elements

    @property
    def free(self) -> tuple[Leg, ...]:
        """The legs along which the elements may change places."""
        return tuple(leg for leg in self.legs if leg.kind is Kind.FREE)


@dataclass(frozen=True, eq=False)
class Layout:
    """What the dimensions of one tensor carry."""

    dims: tuple[tuple[Leg, ...], ...]
    blocks: tuple[Block, ...] = ()

    def block_of(self, leg: Leg) -> Block | None:
        """Return the block in which `leg` is free."""
        return next((block for block in self.blocks if leg in block.legs), None) if leg.kind is Kind.FREE else None

    @property
    def elements(self) -> Elements:
        """All elements of all blocks, as one flat array."""
        if not self.blocks:
            return np.empty(0, dtype=np.int64)
        return np.concatenate([block.labels.ravel() for block in self.blocks])


def size_of(legs: Iterable[Leg]) -> int:
    """Return the number of positions of a dimension."""
    return math.prod(leg.size for leg in legs)


def rigid_dim(size: int, meaning: str) -> tuple[Leg, ...]:
    """Return a dimension whose positions have a meaning of their own."""
    return (Leg(size, Kind.RIGID, meaning),) if size != 1 else ()


def uniform_dim(size: int) -> tuple[Leg, ...]:
    """Return a dimension along which nothing changes."""
    return (Leg(size, Kind.UNIFORM),) if size != 1 else ()


def rigid_layout(shape: Sequence[int], meaning: str) -> Layout:
    """Return the layout of a tensor without channels."""
    return Layout(tuple(rigid_dim(size, meaning) for size in shape))


def preferred(legs: Sequence[Leg]) -> Leg:
    """Return the free leg whose positions should stay free when only one of several can.

    Within a head the channels (inner) are free and the heads (outer) are not; but the small factors of a pixel shuffle
    give way to the channels.
    """
    inner = legs[-1]
    return inner if inner.size >= SMALL_LEG else max(reversed(legs), key=lambda leg: leg.size)


def substitute(layout: Layout, exchange: Mapping[Leg, tuple[Leg, ...]], blocks: Iterable[Block]) -> Layout:
    """Return the layout with some legs replaced in its dimensions, and with new blocks."""
    dims = tuple(tuple(new for leg in dim for new in exchange.get(leg, (leg,))) for dim in layout.dims)
    return Layout(dims, tuple(blocks))


def with_own_legs(layout: Layout) -> Layout:
    """Return the same layout with legs of its own: the two operands of `x @ x.T` must not share theirs."""
    own = {leg: Leg(leg.size, leg.kind, leg.meaning) for dim in layout.dims for leg in dim}
    blocks = [Block(tuple(own[leg] for leg in block.legs), block.labels) for block in layout.blocks]
    return substitute(layout, {leg: (new,) for leg, new in own.items()}, blocks)


def index_along(block: Block, legs: Iterable[Leg]) -> np.ndarray:
    """Return, for every label of the block, the position along `legs` as one number (broadcastable to the labels)."""
    index = np.zeros((1,) * len(block.legs), dtype=np.int64)
    for leg in legs:
        axis = block.legs.index(leg)
        shape = [1] * len(block.legs)
        shape[axis] = leg.size
        index = index * leg.size + np.arange(leg.size, dtype=np.int64).reshape(shape)
    return index


def collapse(block: Block, legs: Sequence[Leg], ledger: Ledger) -> Block:
    """Return the block without `legs`: what lies along them belongs to one channel, place by place."""
    if not legs:
        return block
    axes = [block.legs.index(leg) for leg in legs]
    kept = [axis for axis in range(len(block.legs)) if axis not in axes]
    labels = block.labels.transpose(kept + axes).reshape([block.legs[axis].size for axis in kept] + [-1])
    first = labels[..., :1]
    ledger.unite(labels[..., 1:], np.broadcast_to(first, labels[..., 1:].shape))
    ledger.separate(labels, np.arange(labels.shape[-1], dtype=np.int64))
    return Block(tuple(block.legs[axis] for axis in kept), labels[..., 0])


def freeze_blocks(layout: Layout, blocks: Iterable[Block], ledger: Ledger, reason: str, meaning: str) -> Layout:
    """Return the layout with these blocks gone and their legs rigid; their elements are frozen for the reason."""
    gone = tuple(blocks)
    for block in gone:
        ledger.freeze(block.labels, reason)
    return harden(layout, [leg for block in gone for leg in block.free], gone, meaning)


def harden(layout: Layout, legs: Iterable[Leg], gone: Iterable[Block], meaning: str) -> Layout:
    """Return the layout with free `legs` made rigid and the blocks in `gone` dropped."""
    fixed = {leg: Leg(leg.size, Kind.RIGID, meaning) for leg in legs if leg.kind is Kind.FREE}
    dropped = set(map(id, gone))
    blocks = []
    for block in layout.blocks:
        if id(block) not in dropped:
            legs_after = tuple(fixed.get(leg, leg) for leg in block.legs)
            if any(leg.kind is Kind.FREE for leg in legs_after):
                blocks.append(Block(legs_after, block.labels))
    return substitute(layout, {old: (new,) for old, new in fixed.items()}, blocks)


def freeze_all(layout: Layout, ledger: Ledger, reason: str, meaning: str) -> Layout:
    """Return the layout with every block frozen."""
    return freeze_blocks(layout, layout.blocks, ledger, reason, meaning)


def mix_dims(layout: Layout, dims: Iterable[int], ledger: Ledger, reason: str, meaning: str) -> Layout:
    """Return the layout with the given dimensions rigid: an operation mixes their neighbouring positions.

    A free leg that shares its block with other free legs (the small factors that a pixel shuffle moves into the image)
    becomes part of their channels; one that stands alone is frozen.
    """
    for dim in dims:
        for leg in layout.dims[dim]:
            layout = _mix_leg(layout, leg, ledger, reason, meaning)
    return layout


def _mix_leg(layout: Layout, leg: Leg, ledger: Ledger, reason: str, meaning: str) -> Layout:
    if leg.kind is Kind.UNIFORM:
        return substitute(layout, {leg: (Leg(leg.size, Kind.RIGID, meaning),)}, layout.blocks)
    concerned = [block for block in layout.blocks if leg in block.legs]
    for block in concerned:
        others = [other for other in block.free if other is not leg]
        if not others:
            layout = freeze_blocks(layout, [block], ledger, reason, meaning)
            continue
        joined = collapse(block, [leg], ledger)
        blocks = [joined if other is block else other for other in layout.blocks]
        fixed = {leg: (Leg(leg.size, Kind.RIGID, meaning),)} if leg.kind is Kind.FREE else {}
        layout = substitute(layout, fixed, blocks)
    return layout


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
    return Layout(tuple(dims), layout.blocks)


def without_dims(layout: Layout, gone: Iterable[int]) -> Layout:
    """Return the layout without dimensions that have no legs left."""
    dropped = set(gone)
    return Layout(tuple(dim for index, dim in enumerate(layout.dims) if index not in dropped), layout.blocks)


def reduce(layout: Layout, dims: Iterable[int], ledger: Ledger, reason: str) -> Layout:
    """Return the layout after a sum, mean, maximum or norm over `dims`, which keep size 1.

    A sum over all free legs of a block does not ask for their order. A sum over some of them leaves a choice: either
    the channels along the summed legs stay free within each position of the others, or the others stay free and carry
    the summed ones along. `preferred` decides.
    """
    gone = [leg for dim in dims for leg in layout.dims[dim]]
    result = layout
    for block in layout.blocks:
        summed = [leg for leg in block.legs if leg in gone]
        kept = [leg for leg in block.free if leg not in gone]
        current = next((b for b in result.blocks if b.labels is block.labels and set(summed) <= set(b.legs)), None)
        if not summed or current is None:
            continue
        if not kept:
            result = Layout(result.dims, tuple(b for b in result.blocks if b is not current))
            continue
        free_summed = [leg for leg in summed if leg.kind is Kind.FREE]
        if free_summed and preferred(block.free) in free_summed:
            ledger.separate(current.labels, index_along(current, [leg for leg in current.legs if leg not in gone]))
            result = harden(result, kept, [current], "a position that channels were summed for")
        else:
            joined = collapse(current, summed, ledger)
            result = Layout(result.dims, tuple(joined if b is current else b for b in result.blocks))
    reduced = set(gone)
    result_dims = set(dims)
    assert all(not (reduced & set(b.legs)) for b in result.blocks)
    return Layout(tuple(() if d in result_dims else dim for d, dim in enumerate(result.dims)), result.blocks)


def take(layout: Layout, dim: int, start: int, stop: int, step: int, ledger: Ledger, reason: str) -> Layout:
    """Return the layout of `tensor[start:stop:step]` along `dim`: a cut, that permutations may not cross."""
    legs = layout.dims[dim]
    size = size_of(legs)
    if start == 0 and stop >= size and step == 1:
        return layout
    if len(legs) > 1:
        inner = size_of(legs[1:])
        if step == 1 and start % inner == 0 and stop % inner == 0:
            return _take_leg(layout, dim, legs[0], slice(start // inner, stop // inner), ledger)
        layout, leg = merge_dim(layout, dim, ledger, reason)
        assert leg is not None
        return _take_leg(layout, dim, leg, slice(start, stop, step), ledger)
    return _take_leg(layout, dim, legs[0], slice(start, stop, step), ledger) if legs else layout


def _take_leg(layout: Layout, dim: int, leg: Leg, cut: slice, ledger: Ledger) -> Layout:
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
                continue
        blocks.append(block)
    return substitute(layout, {leg: parts}, blocks)
