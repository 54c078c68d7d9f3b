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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from surgeon.coupling.ledger import Elements, Ledger

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
    """What the dimensions of one tensor carry.

    `zero` marks a tensor that is known to hold zeros only: every factor leaves it as it is. An operation that does not
    hand the mark on loses nothing but freedom.
    """

    dims: tuple[tuple[Leg, ...], ...]
    blocks: tuple[Block, ...] = ()
    zero: bool = False

    def block_of(self, leg: Leg) -> Block | None:
        """Return the block in which `leg` is free."""
        return next((block for block in self.blocks if leg in block.legs), None) if leg.kind is Kind.FREE else None

    @property
    def elements(self) -> Elements:
        """All elements of all blocks, as one flat array."""
        if not self.blocks:
            return np.empty(0, dtype=np.int64)
        return np.concatenate([block.labels.ravel() for block in self.blocks])


def outline(layout: Layout) -> list[list[tuple[int, Kind]]]:
    """Return the size and kind of every leg of every dimension."""
    return [[(leg.size, leg.kind) for leg in legs] for legs in layout.dims]


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
