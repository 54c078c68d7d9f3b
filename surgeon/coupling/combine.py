"""What happens where two tensors meet: position by position (`combine`), or one after the other (`concatenate`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from surgeon.coupling.axes import (
    Block,
    Kind,
    Layout,
    Leg,
    collapse,
    freeze_all,
    index_along,
    merge_dim,
    permute,
    preferred,
    reduce,
    refine,
    rigid_dim,
    size_of,
    with_own_legs,
    without_dims,
)
from surgeon.coupling.ledger import Ledger


@dataclass
class _Meeting:
    """The working state of one `combine`: both operands' legs, paired to the legs of the result.

    Where two blocks become one, the elements of the larger operand stand for both: of a weight and its gains, the
    weight's.
    """

    ledger: Ledger
    reason: str
    pairs: list[tuple[Leg | None, Leg | None]]
    larger: int
    kinds: list[Kind] = field(init=False)
    meanings: list[str] = field(init=False)
    done: set[int] = field(default_factory=set)
    result: list[tuple[list[int], Block]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kinds = []
        self.meanings = []
        for pair in self.pairs:
            present = [leg for leg in pair if leg is not None]
            rigid = next((leg for leg in present if leg.kind is Kind.RIGID), None)
            free = any(leg.kind is Kind.FREE for leg in present)
            self.kinds.append(Kind.RIGID if rigid else Kind.FREE if free else Kind.UNIFORM)
            self.meanings.append(rigid.meaning if rigid else "")
        self.place = {leg: index for index, pair in enumerate(self.pairs) for leg in pair if leg is not None}

    def fix(self, legs: Sequence[Leg], meaning: str) -> None:
        for leg in legs:
            self.kinds[self.place[leg]] = Kind.RIGID
            self.meanings[self.place[leg]] = self.meanings[self.place[leg]] or meaning

    def places(self, block: Block) -> list[int]:
        return [self.place[leg] for leg in block.legs]

    def keep(self, block: Block) -> None:
        self.result.append((self.places(block), block))

    def freeze(self, block: Block) -> None:
        meanings = [self.meanings[self.place[leg]] for leg in block.free]
        meaning = next((m for m in meanings if m), "")
        detail = f": they meet {meaning}" if meaning else ""
        self.ledger.freeze(block.labels, self.reason.format(detail=detail))
        self.fix(block.free, meaning or "channels of another kind")


def combine(first: Layout, second: Layout, ledger: Ledger, reason: str) -> Layout:
    """Return the layout of a broadcast operation on two tensors, and unite the channels that meet.

    Args:
        first: layout of one operand.
        second: layout of the other; the dimensions are aligned from the right, as broadcasting does.
        ledger: where the facts go.
        reason: sentence for channels that this operation fixes; `{detail}` in it is replaced by what they meet.
    """
    rank = max(len(first.dims), len(second.dims))
    first = Layout(((),) * (rank - len(first.dims)) + first.dims, first.blocks)
    second = Layout(((),) * (rank - len(second.dims)) + second.dims, second.blocks)
    if {leg for dim in first.dims for leg in dim} & {leg for dim in second.dims for leg in dim}:
        second = with_own_legs(second)
    for dim in range(rank):
        first, second = refine(first, second, dim, ledger, reason.format(detail=""))
    pairs: list[tuple[Leg | None, Leg | None]] = []
    places: list[range] = []
    for mine, yours in zip(first.dims, second.dims, strict=True):
        count = max(len(mine), len(yours))
        places.append(range(len(pairs), len(pairs) + count))
        pairs.extend((mine[i] if mine else None, yours[i] if yours else None) for i in range(count))
    sizes = [size_of(leg for dim in layout.dims for leg in dim) for layout in (first, second)]
    meeting = _Meeting(ledger, reason, pairs, larger=int(sizes[1] > sizes[0]))
    work = [(0, block) for block in first.blocks] + [(1, block) for block in second.blocks]
    work.sort(key=lambda entry: -len(entry[1].free))
    for side, block in work:
        if id(block) not in meeting.done:
            _meet(meeting, side, block, [entry for entry in work if id(entry[1]) not in meeting.done])
    return _finish(meeting, places)


def _meet(meeting: _Meeting, side: int, block: Block, undecided: list[tuple[int, Block]]) -> None:
    """Decide what becomes of one block of one operand (`side`), given the blocks that are still undecided."""
    place = meeting.place
    others = [other for other_side, other in undecided if other_side != side]
    opposite = {leg: meeting.pairs[place[leg]][1 - side] for leg in block.legs}
    kinds = {leg: Kind.UNIFORM if other is None else other.kind for leg, other in opposite.items()}
    absent = [leg for leg in block.free if kinds[leg] is Kind.UNIFORM]
    rigid = [leg for leg in block.free if kinds[leg] is Kind.RIGID]
    shared = [leg for leg in block.free if kinds[leg] is Kind.FREE]
    meeting.done.add(id(block))
    for other in others:
        if sorted(meeting.places(other)) == sorted(meeting.places(block)):
            _unite_equal(meeting, side, block, other)
            return
    if not shared:
        if not rigid:
            meeting.keep(block)
        elif not absent or preferred(block.free) in rigid:
            meeting.freeze(block)
        else:
            meeting.ledger.separate(block.labels, index_along(block, rigid))
            meeting.keep(block)
        return
    shared_places = {place[leg] for leg in shared}
    partners = [other for other in others if shared_places & {place[leg] for leg in other.free}]
    if len(partners) == 1 and {place[leg] for leg in partners[0].free} == shared_places:
        _unite_nested(meeting, side, block, partners[0], shared, absent, rigid)
    else:
        _keep_own(meeting, block, [other for _, other in undecided])


def _keep_own(meeting: _Meeting, block: Block, undecided: Sequence[Block]) -> None:
    """Fix the legs that several blocks share (the heads of keys and values), so that each keeps what only it has."""
    blocks = {id(block): block}
    owners = {meeting.place[leg]: block for leg in block.free}
    shared: list[Leg] = []
    while True:
        found = next((b for b in undecided if id(b) not in blocks and owners.keys() & _free_places(meeting, b)), None)
        if found is None:
            break
        blocks[id(found)] = found
        shared.extend(leg for leg in found.free if meeting.place[leg] in owners)
        owners.update((place, found) for place in _free_places(meeting, found))
    meeting.fix(shared, "positions that several sets of channels share")
    for block in blocks.values():
        meeting.done.add(id(block))
        fixed = [leg for leg in block.free if meeting.kinds[meeting.place[leg]] is Kind.RIGID]
        if len(fixed) == len(block.free):
            meeting.freeze(block)
        else:
            meeting.ledger.separate(block.labels, index_along(block, fixed))
            meeting.keep(block)


def _free_places(meeting: _Meeting, block: Block) -> set[int]:
    return {meeting.place[leg] for leg in block.free}


def _unite_equal(meeting: _Meeting, side: int, block: Block, other: Block) -> None:
    """Unite two blocks that lie along the same legs; a leg that is rigid on one side becomes a selector of both."""
    meeting.done.add(id(other))
    for one, one_side in ((block, side), (other, 1 - side)):
        met = {leg: meeting.pairs[meeting.place[leg]][1 - one_side] for leg in one.free}
        rigid = [leg for leg, opposite in met.items() if opposite is not None and opposite.kind is Kind.RIGID]
        if rigid:
            meeting.ledger.separate(one.labels, index_along(one, rigid))
    order = [meeting.places(other).index(index) for index in meeting.places(block)]
    meeting.ledger.unite(block.labels, other.labels.transpose(order))
    if any(meeting.kinds[index] is Kind.FREE for index in meeting.places(block)):
        meeting.keep(block if side == meeting.larger else other)
    else:
        meeting.freeze(block)


def _unite_nested(
    meeting: _Meeting,
    side: int,
    block: Block,
    inner: Block,
    shared: list[Leg],
    absent: list[Leg],
    rigid: list[Leg],
) -> None:
    """Unite a block with one that lies along fewer of its legs, or keep the freedom that the other does not see."""
    place = meeting.place
    meeting.done.add(id(inner))
    best = preferred(block.free)
    if best in absent:
        meeting.freeze(inner)
        meeting.fix(shared, "positions with a value of their own")
        meeting.ledger.separate(block.labels, index_along(block, [*shared, *rigid]))
        meeting.keep(block)
        return
    common = {place[leg] for leg in block.legs} & {place[leg] for leg in inner.legs}
    meeting.fix([*absent, *rigid], "copies of a channel")
    small = collapse(block, [leg for leg in block.legs if place[leg] not in common], meeting.ledger)
    other = collapse(inner, [leg for leg in inner.legs if place[leg] not in common], meeting.ledger)
    order = [meeting.places(other).index(index) for index in meeting.places(small)]
    meeting.ledger.unite(small.labels, other.labels.transpose(order))
    meeting.keep(small if side == meeting.larger else other)


def _finish(meeting: _Meeting, places: list[range]) -> Layout:
    legs = [
        Leg((mine or yours).size, kind, meaning)  # type: ignore[union-attr]
        for (mine, yours), kind, meaning in zip(meeting.pairs, meeting.kinds, meeting.meanings, strict=True)
    ]
    blocks = []
    for indices, block in meeting.result:
        built = Block(tuple(legs[index] for index in indices), block.labels)
        if built.free:
            blocks.append(built)
    return Layout(tuple(tuple(legs[index] for index in group) for group in places), tuple(blocks))


def concatenate(layouts: Sequence[Layout], dim: int, ledger: Ledger, reason: str) -> Layout:
    """Return the layout of several tensors joined along `dim`.

    Channels along `dim` stay free, each in its own place; what lies along the other dimensions meets and is united.
    Rigid pieces along `dim` become frozen channels, uniform ones (zero padding) channels that hold a constant; those of
    one meaning hold the same constant.
    """
    plain = reason.format(detail="")
    pieces: list[Layout] = []
    along: list[Leg | None] = []
    for layout in layouts:
        piece, leg = merge_dim(layout, dim, ledger, plain)
        pieces.append(piece)
        along.append(leg)
    owners = [piece.block_of(leg) if leg is not None else None for piece, leg in zip(pieces, along, strict=True)]
    stacked = all(leg is None for leg in along)
    if stacked or any(owner is not None and len(owner.legs) > 1 for owner in owners):
        joined = _join_blocks(pieces, along, dim, ledger, reason)
        if joined is not None:
            return joined
        if not stacked:
            frozen = [freeze_all(piece, ledger, plain, "a channel among others of another kind") for piece in pieces]
            return concatenate(frozen, dim, ledger, reason)
    rest = _meet_outside(pieces, along, owners, dim, ledger, reason)
    if not any(owners):
        total = sum(leg.size if leg is not None else 1 for leg in along)
        everywhere = (leg for piece in pieces for legs in piece.dims for leg in legs)
        meanings = [leg.meaning for leg in (*along, *everywhere) if leg is not None and leg.meaning]
        merged_dim = rigid_dim(total, meanings[0] if meanings else "positions of joined tensors")
        return Layout(tuple(merged_dim if d == dim else legs for d, legs in enumerate(rest.dims)), rest.blocks)
    labels = []
    alike: dict[str, list[np.ndarray]] = {}
    for index, (leg, owner) in enumerate(zip(along, owners, strict=True)):
        labels.append(owner.labels if owner is not None else ledger.fresh(leg.size if leg is not None else 1))
        if owner is None and leg is not None and leg.kind is Kind.UNIFORM:
            alike.setdefault(leg.meaning or f"piece {index}", []).append(labels[-1])
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
) -> Layout:
    """Return what the pieces have in common outside `dim`, which gets size 1."""
    rest: Layout | None = None
    for piece, leg, owner in zip(pieces, along, owners, strict=True):
        blocks = tuple(
            collapse(block, [leg], ledger) if leg is not None and leg in block.legs else block
            for block in piece.blocks
            if block is not owner
        )
        outside = Layout(tuple(() if d == dim else legs for d, legs in enumerate(piece.dims)), blocks)
        rest = outside if rest is None else combine(rest, outside, ledger, reason)
    assert rest is not None
    return rest


def _join_blocks(
    pieces: Sequence[Layout], along: Sequence[Leg | None], dim: int, ledger: Ledger, reason: str
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


def contract(
    operands: Sequence[tuple[Layout, Sequence[str]]], output: Sequence[str], ledger: Ledger, reason: str
) -> Layout:
    """Return the layout of an einsum: the operands meet by their letters, and those that the output lacks are summed.

    Args:
        operands: layouts with one letter for every dimension; no letter twice within one operand.
        output: letters of the result's dimensions.
        ledger: where the facts go.
        reason: sentence for channels that this operation fixes.
    """
    letters = [*output, *dict.fromkeys(letter for _, names in operands for letter in names if letter not in output)]
    total: Layout | None = None
    for layout, names in operands:
        present = [letter for letter in letters if letter in names]
        ordered = permute(layout, [list(names).index(letter) for letter in present])
        dims = iter(ordered.dims)
        spread = Layout(tuple(next(dims) if letter in present else () for letter in letters), ordered.blocks)
        total = spread if total is None else combine(total, spread, ledger, reason)
    assert total is not None
    _note_plain_sums(operands, output, ledger)
    summed = range(len(output), len(letters))
    return without_dims(reduce(total, summed, ledger, reason.format(detail="")), summed)


def _note_plain_sums(operands: Sequence[tuple[Layout, Sequence[str]]], output: Sequence[str], ledger: Ledger) -> None:
    """State that channels are inhomogeneous if they are summed without a weight that could take a factor up."""
    for layout, names in operands:
        others = {
            name
            for other, other_names in operands
            if other is not layout
            for legs, name in zip(other.dims, other_names, strict=True)
            if any(leg.kind is Kind.FREE for leg in legs)
        }
        for block in layout.blocks:
            here = {name for legs, name in zip(layout.dims, names, strict=True) if set(legs) & set(block.free)}
            if not here & (others | set(output)):
                ledger.note_inhomogeneous(block.labels)
