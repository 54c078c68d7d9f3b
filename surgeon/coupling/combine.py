"""What happens where tensors meet: position by position (`combine`), or in a sum of products (`contract`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from surgeon.coupling.axes import (
    Block,
    Kind,
    Layout,
    Leg,
    collapse,
    index_along,
    preferred,
    reduce,
    size_of,
    with_own_legs,
)
from surgeon.coupling.ledger import Ledger
from surgeon.coupling.views import permute, refine, without_dims


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
    sizes: list[int] = field(init=False)
    kinds: list[Kind] = field(init=False)
    meanings: list[str] = field(init=False)
    done: set[int] = field(default_factory=set)
    result: list[tuple[list[int], Block]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes = []
        self.kinds = []
        self.meanings = []
        for pair in self.pairs:
            present = [leg for leg in pair if leg is not None]
            rigid = next((leg for leg in present if leg.kind is Kind.RIGID), None)
            free = any(leg.kind is Kind.FREE for leg in present)
            self.sizes.append(present[0].size)
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
    if len(partners) == 1 and shared_places in (_free_places(meeting, partners[0]), _open_places(meeting, partners[0])):
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


def _open_places(meeting: _Meeting, block: Block) -> set[int]:
    """Return where a block's free legs meet nothing rigid."""
    return {place for place in _free_places(meeting, block) if meeting.kinds[place] is not Kind.RIGID}


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
    fixed = [leg for leg in inner.free if meeting.kinds[place[leg]] is Kind.RIGID]
    if fixed:
        meeting.ledger.separate(inner.labels, index_along(inner, fixed))
    common = {place[leg] for leg in block.legs} & {place[leg] for leg in inner.legs}
    meeting.fix([*absent, *rigid], "copies of a channel")
    small = collapse(block, [leg for leg in block.legs if place[leg] not in common], meeting.ledger)
    other = collapse(inner, [leg for leg in inner.legs if place[leg] not in common], meeting.ledger)
    order = [meeting.places(other).index(index) for index in meeting.places(small)]
    meeting.ledger.unite(small.labels, other.labels.transpose(order))
    meeting.keep(small if side == meeting.larger else other)


def _finish(meeting: _Meeting, places: list[range]) -> Layout:
    legs = [
        Leg(size, kind, meaning)
        for size, kind, meaning in zip(meeting.sizes, meeting.kinds, meeting.meanings, strict=True)
    ]
    blocks = []
    for indices, block in meeting.result:
        built = Block(tuple(legs[index] for index in indices), block.labels)
        if built.free:
            blocks.append(built)
        else:
            # What follows does not see these channels any more, and so cannot be divided by their factors.
            meeting.ledger.note_inhomogeneous(block.labels, meeting.reason.format(detail=""))
    return Layout(tuple(tuple(legs[index] for index in group) for group in places), tuple(blocks))


def note_shift(result: Layout, part: Layout, ledger: Ledger, reason: str) -> None:
    """State that channels of a result that one part of it does not carry cannot take up a factor of their own.

    Args:
        result: layout of the sum, the maximum, or the joined tensor.
        part: layout of what went into it, with as many or (aligned from the right) fewer dimensions.
        ledger: where the facts go.
        reason: the sentence.
    """
    rank = len(result.dims)
    carried = {
        rank - len(part.dims) + dim for dim, legs in enumerate(part.dims) if any(part.block_of(leg) for leg in legs)
    }
    for block in result.blocks:
        if not any(set(legs) & set(block.free) and dim in carried for dim, legs in enumerate(result.dims)):
            ledger.note_inhomogeneous(block.labels, reason)


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
    _note_plain_sums(operands, output, ledger, reason.format(detail=" as it sums them"))
    summed = range(len(output), len(letters))
    return without_dims(reduce(total, summed, ledger, reason.format(detail="")), summed)


def _note_plain_sums(
    operands: Sequence[tuple[Layout, Sequence[str]]], output: Sequence[str], ledger: Ledger, reason: str
) -> None:
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
                ledger.note_inhomogeneous(block.labels, reason)
