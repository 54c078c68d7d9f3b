"""What happens where several tensors are joined along a dimension."""

from collections.abc import Sequence

import numpy as np

from surgeon.coupling.axes import Block, Kind, Layout, Leg, collapse, freeze_all, outline, rigid_dim
from surgeon.coupling.combine import combine, note_shift
from surgeon.coupling.ledger import Elements, Ledger
from surgeon.coupling.views import merge_dim


def concatenate(layouts: Sequence[Layout], dim: int, ledger: Ledger, reason: str, bend: str) -> Layout:
    """Return the layout of several tensors joined along `dim`.

    Channels along `dim` stay free, each in its own place; what lies along the other dimensions meets and is united.
    Rigid pieces along `dim` become frozen channels, uniform ones (zero padding) channels that hold a constant; those of
    one meaning hold the same constant. A factor on a channel has to reach every value in it: zeros it may pass by, but
    not what a piece holds in place of the channels of the others.

    Args:
        layouts: the tensors, of one rank.
        dim: the dimension along which they are joined.
        ledger: where the facts go.
        reason: sentence for channels that the operation fixes, with `{detail}` for what they meet.
        bend: sentence for channels that cannot take up a factor of their own.
    """
    plain = reason.format(detail="")
    pieces: list[Layout] = []
    along: list[Leg | None] = []
    for layout in layouts:
        piece, leg = merge_dim(layout, dim, ledger, plain)
        pieces.append(Layout(piece.dims, piece.blocks, layout.zero))
        along.append(leg)
    owners = [piece.block_of(leg) if leg is not None else None for piece, leg in zip(pieces, along, strict=True)]
    stacked = all(leg is None for leg in along)
    if stacked or any(owner is not None and len(owner.legs) > 1 for owner in owners):
        joined = _join_blocks(pieces, along, dim, ledger, reason, bend)
        if joined is not None:
            return joined
        if not stacked:
            frozen = [freeze_all(piece, ledger, plain, "a channel among others of another kind") for piece in pieces]
            return concatenate(frozen, dim, ledger, reason, bend)
    rest = _meet_outside(pieces, along, owners, dim, ledger, reason, bend)
    if not any(owners):
        total = sum(leg.size if leg is not None else 1 for leg in along)
        everywhere = (leg for piece in pieces for legs in piece.dims for leg in legs)
        meanings = [leg.meaning for leg in (*along, *everywhere) if leg is not None and leg.meaning]
        merged_dim = rigid_dim(total, meanings[0] if meanings else "positions of joined tensors")
        return Layout(tuple(merged_dim if d == dim else legs for d, legs in enumerate(rest.dims)), rest.blocks)
    labels = []
    alike: dict[str, list[np.ndarray]] = {}
    for index, (piece, leg, owner) in enumerate(zip(pieces, along, owners, strict=True)):
        labels.append(owner.labels if owner is not None else ledger.fresh(leg.size if leg is not None else 1))
        if owner is None and leg is not None and leg.kind is Kind.UNIFORM:
            alike.setdefault(leg.meaning or f"piece {index}", []).append(labels[-1])
            _note_constant(piece, labels[-1], ledger, bend)
        elif owner is None:
            meaning = leg.meaning if leg is not None and leg.meaning else "positions that are no channels"
            ledger.freeze(labels[-1], reason.format(detail=f": they meet {meaning}"))
    for constants in alike.values():
        ledger.separate(np.concatenate(constants))
    everything = ledger.distinct(np.concatenate(labels))
    merged = Leg(everything.size, Kind.FREE)
    dims = tuple((merged,) if d == dim else legs for d, legs in enumerate(rest.dims))
    return Layout(dims, (*rest.blocks, Block((merged,), everything)))


def _meet_outside(
    pieces: Sequence[Layout],
    along: Sequence[Leg | None],
    owners: Sequence[Block | None],
    dim: int,
    ledger: Ledger,
    reason: str,
    bend: str,
) -> Layout:
    """Return what the pieces have in common outside `dim`, which gets size 1."""
    rest: Layout | None = None
    outsides = []
    for piece, leg, owner in zip(pieces, along, owners, strict=True):
        blocks = tuple(
            collapse(block, [leg], ledger) if leg is not None and leg in block.legs else block
            for block in piece.blocks
            if block is not owner
        )
        outside = Layout(tuple(() if d == dim else legs for d, legs in enumerate(piece.dims)), blocks, piece.zero)
        outsides.append(outside)
        if rest is None:
            rest = outside
        elif outside.blocks or outline(outside) != outline(rest):
            rest = combine(rest, outside, ledger, reason)
    assert rest is not None
    for outside in outsides:
        if not outside.zero:
            note_shift(rest, outside, ledger, bend)
    return rest


def _note_constant(piece: Layout, labels: Elements, ledger: Ledger, bend: str) -> None:
    """State that channels that hold a constant take up no factor, unless it is zero."""
    if not piece.zero:
        ledger.note_inhomogeneous(labels, bend)


def _join_blocks(
    pieces: Sequence[Layout], along: Sequence[Leg | None], dim: int, ledger: Ledger, reason: str, bend: str
) -> Layout | None:
    """Join pieces that each carry one block of the same outline, so that every piece keeps its own channels.

    The block may lie along `dim` and others, or (a stack) only along others. None where the pieces' outlines differ.
    """
    constant = [_is_constant(piece, leg) for piece, leg in zip(pieces, along, strict=True)]
    outlines = [_outline(p, leg, dim) for p, leg, same in zip(pieces, along, constant, strict=True) if not same]
    if not outlines or outlines[0] is None or any(outline != outlines[0] for outline in outlines):
        return None
    other_sizes = [
        next(piece for piece, same in zip(pieces, constant, strict=True) if not same).dims[d][i].size
        for (d, i), _ in sorted(outlines[0][1], key=lambda entry: entry[0])
    ]
    labels = []
    for piece, leg, same in zip(pieces, along, constant, strict=True):
        if same:
            assert leg is not None
            labels.append(ledger.fresh(leg.size, *other_sizes))
            ledger.separate(labels[-1])
            _note_constant(piece, labels[-1], ledger, bend)
            continue
        block = piece.blocks[0]
        where = _places(piece)
        order = sorted(
            (i for i, other in enumerate(block.legs) if other is not leg), key=lambda i: where[block.legs[i]]
        )
        if leg is None:
            labels.append(block.labels.transpose(order)[None])
        else:
            labels.append(block.labels.transpose([block.legs.index(leg), *order]))
    skeletons = [Layout(tuple(() if d == dim else legs for d, legs in enumerate(p.dims))) for p in pieces]
    rest = skeletons[0]
    for other in skeletons[1:]:
        rest = combine(rest, other, ledger, reason)
    joined = ledger.distinct(np.concatenate(labels))
    merged = Leg(joined.shape[0], Kind.FREE)
    legs = [rest.dims[d][i] for (d, i), _ in sorted(outlines[0][1], key=lambda entry: entry[0])]
    dims = tuple((merged,) if d == dim else dim_legs for d, dim_legs in enumerate(rest.dims))
    return Layout(dims, (Block((merged, *legs), joined),))


def _is_constant(layout: Layout, leg: Leg | None) -> bool:
    """Return whether a piece holds one number everywhere (padding)."""
    return leg is not None and all(other.kind is Kind.UNIFORM for legs in layout.dims for other in legs)


def _places(layout: Layout) -> dict[Leg, tuple[int, int]]:
    return {leg: (d, i) for d, legs in enumerate(layout.dims) for i, leg in enumerate(legs)}


def _outline(
    layout: Layout, along: Leg | None, dim: int
) -> tuple[tuple[tuple[int, ...], ...], frozenset[tuple[tuple[int, int], Kind]]] | None:
    """Return the sizes of the legs outside `dim` and where the only block's legs lie; None for another structure."""
    if len(layout.blocks) != 1 or (along is not None and along not in layout.blocks[0].free):
        return None
    where = _places(layout)
    sizes = tuple(tuple(leg.size for leg in legs) for d, legs in enumerate(layout.dims) if d != dim)
    return sizes, frozenset((where[leg], leg.kind) for leg in layout.blocks[0].legs if leg is not along)
