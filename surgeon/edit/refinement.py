"""Find which channels of two networks are the same, whatever their order, by colour refinement.

A channel's colour is a hash of its values in every tensor that carries it, in which the channels of other groups stand
with their colours and in no order. Colours are refined until they tell the channels apart, as in the test of Weisfeiler
and Leman (1968) for graphs. This takes a few passes over the tensors; hashes are compared, so what is found is to be
checked on the values.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member

Carriers = Mapping[ChannelGroup, tuple[Member, ...]]
"""The members of every group that two networks are compared by: tensors that both have, with the same shape."""

Pair = tuple[Tensor, Tensor]
"""The same of the first and of the second network."""

GOLDEN = -7046029254386353131
"""2^64 over the golden ratio as a signed integer, and the multipliers of the finalizer of SplitMix64."""
FACTORS = (-4658895280553007687, -7723592293110705685)

LARGEST_PIECE = 2**22
"""Values that are hashed at once."""


@dataclass(frozen=True, eq=False)
class Refined:
    """Which channels of two networks are the same.

    Attributes:
        orders: for the groups that were found, LongTensor `[size]`: channel i of the first network is channel
            `order[i]` of the second.
        tied: those of them in which no tensor tells some channels apart, which are paired in the order that they have.
    """

    orders: Mapping[ChannelGroup, Tensor]
    tied: Set[ChannelGroup]


def refine(
    carriers: Carriers, first: Mapping[str, Tensor], second: Mapping[str, Tensor], *, carefully: bool = False
) -> Refined:
    """Find the order of each group's channels by which the second network's tensors are the first's.

    Tensors that differ by more than an order of channels are passed over, and a group whose channels the others do not
    tell apart is left out.

    Args:
        carriers: the groups and their members.
        first: tensors by name.
        second: tensors by name, of the same shapes.
        carefully: pair tied channels in one group at a time, and see what that tells of the others: the pairs of one
            may decide those of the next. It takes longer, and is needed only for ties of channels that differ.
    """
    state = _Refinement(carriers, carefully)
    dirty = set(state.by_tensor)
    while dirty:
        for name in sorted(dirty):
            state.read(name, first[name], second[name])
        dirty = state.step()
    return Refined(state.orders, state.tied)


@dataclass
class _Refinement:
    """The colours so far, and what they were made from."""

    carriers: Carriers
    carefully: bool
    by_tensor: dict[str, list[tuple[ChannelGroup, int]]] = field(default_factory=dict)
    colours: dict[ChannelGroup, Pair] = field(default_factory=dict)
    hashes: dict[tuple[ChannelGroup, int], Pair] = field(default_factory=dict)
    orders: dict[ChannelGroup, Tensor] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    lost: set[ChannelGroup] = field(default_factory=set)
    tied: set[ChannelGroup] = field(default_factory=set)

    def __post_init__(self) -> None:
        for number, (group, members) in enumerate(self.carriers.items()):
            colour = mixed(torch.full((group.size,), number))
            self.colours[group] = colour, colour
            for place, member in enumerate(members):
                self.by_tensor.setdefault(member.tensor, []).append((group, place))

    def read(self, name: str, one: Tensor, other: Tensor) -> None:
        """Hash a tensor of both networks anew; its first reading tells whether it differs by more than an order."""
        known = self.by_tensor[name][0] in self.hashes
        hashed = [self._hashes(name, tensor, side) for side, tensor in enumerate((one, other))]
        if not known and hashed[0][1] != hashed[1][1]:
            self.changed.add(name)
        for key in self.by_tensor[name]:
            self.hashes[key] = hashed[0][0][key], hashed[1][0][key]

    def step(self) -> set[str]:
        """Refine the colours once, and return the tensors to read anew."""
        refined = {group for group in self.carriers if self._is_open(group) and self._refine(group)}
        if not refined:
            tied = [group for group in self.carriers if self._is_open(group) and self._is_whole(group)]
            refined = set(tied[:1] if self.carefully else tied)
            for group in refined:
                self._settle(group, self.colours[group])
            self.tied |= refined
        # What is settled matters only to tensors of groups that are not.
        wanted = {
            member.tensor for group, members in self.carriers.items() if self._is_open(group) for member in members
        }
        near = {member.tensor for group in refined for member in self.carriers[group]}
        return (near & wanted) - self.changed

    def _is_open(self, group: ChannelGroup) -> bool:
        return group not in self.orders and group not in self.lost

    def _is_whole(self, group: ChannelGroup) -> bool:
        return not any(member.tensor in self.changed for member in self.carriers[group])

    def _refine(self, group: ChannelGroup) -> bool:
        """Give a group its new colours where they tell more channels apart."""
        before = self.colours[group]
        sums = [mixed(colour) for colour in before]
        for place, member in enumerate(self.carriers[group]):
            if member.tensor not in self.changed:
                for side, value in enumerate(self.hashes[group, place]):
                    sums[side] = sums[side] + mixed(value + place)
        one, other = mixed(sums[0]), mixed(sums[1])
        if not torch.equal(one.sort().values, other.sort().values):
            self.lost.add(group)
            return False
        count = one.unique().numel()
        if count == group.size:
            self._settle(group, (one, other))
        elif count > before[0].unique().numel():
            self.colours[group] = one, other
        else:
            return False
        return True

    def _settle(self, group: ChannelGroup, colours: Pair) -> None:
        one, other = (colour.argsort(stable=True) for colour in colours)
        order = torch.empty_like(other)
        order[one] = other
        self.orders[group] = order
        own = mixed(self.colours[group][0] + torch.arange(group.size))
        paired = torch.empty_like(own)
        paired[order] = own
        self.colours[group] = own, paired

    def _hashes(self, name: str, tensor: Tensor, side: int) -> tuple[dict[tuple[ChannelGroup, int], Tensor], list[int]]:
        """Return the hash of each channel in each member, and those of the tensor's blocks."""
        result = {key: torch.zeros(key[0].size, dtype=torch.int64) for key in self.by_tensor[name]}
        totals = []
        members = {key: self.carriers[key[0]][key[1]] for key in self.by_tensor[name]}
        for rows in _blocks(list(members.values()), len(tensor)):
            block = tensor[rows]
            inside = {key: places for key, member in members.items() if (places := _places(member, rows)) is not None}
            labels = self._labels(block.shape, members, inside, side)
            sums = _sums(block, labels, {0, *(members[key].dim for key in inside)})
            totals.append(int((sums[0] * labels[0]).sum()))
            for key, (channels, positions, turns) in inside.items():
                values = mixed(sums[members[key].dim][positions] + mixed(turns + rows.start * (members[key].dim > 0)))
                result[key].index_add_(0, channels, values)
        return result, totals

    def _labels(
        self,
        shape: Sequence[int],
        members: Mapping[tuple[ChannelGroup, int], Member],
        inside: Mapping[tuple[ChannelGroup, int], tuple[Tensor, Tensor, Tensor]],
        side: int,
    ) -> list[Tensor]:
        """Return an odd number for every position of each axis: of a channel its colour, of others their place."""
        labels = [mixed(torch.arange(length) + (axis << 40)) | 1 for axis, length in enumerate(shape)]
        for key, (channels, positions, turns) in inside.items():
            colours = self.colours[key[0]][side][channels]
            labels[members[key].dim][positions] = mixed(colours + mixed(turns)) | 1
        return labels


def mixed(values: Tensor) -> Tensor:
    """Return 64 bits that look random for each integer (the finalizer of SplitMix64), int64 of the same shape."""
    values = values + GOLDEN
    values = (values ^ (values >> 30)) * FACTORS[0]
    values = (values ^ (values >> 27)) * FACTORS[1]
    return values ^ (values >> 31)


def _hashed(tensor: Tensor) -> Tensor:
    """A hash of each value: the same for the same number of any floating-point type, and for all NaNs."""
    if not tensor.is_floating_point():
        return mixed(tensor.to(torch.int64))
    # Adding zero makes one of both zeros.
    exact = tensor.to(torch.float64) + 0.0
    return mixed(exact.masked_fill_(exact.isnan(), torch.nan).view(torch.int64))


def _blocks(members: Sequence[Member], length: int) -> Iterator[slice]:
    """Rows of axis 0 within which every other axis carries the same groups."""
    cuts = {0, length}
    for member in members:
        if member.rows is not None:
            cuts.update((member.rows.start, member.rows.stop))
    ends = sorted(cuts)
    yield from (slice(start, stop) for start, stop in itertools.pairwise(ends))


def _places(member: Member, rows: slice) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the channels, positions and numbers of repetition of a member within a block, each `[n]`; or None."""
    size, repeat = member.positions.shape
    channels = torch.arange(size).repeat_interleave(repeat)
    positions, turns = member.positions.flatten(), torch.arange(repeat).repeat(size)
    if member.dim == 0:
        start = 0 if member.rows is None else member.rows.start
        positions = positions + start - rows.start
        within = (positions >= 0) & (positions < rows.stop - rows.start)
        found = channels[within], positions[within], turns[within]
        return found if len(found[0]) else None
    covered = member.rows is None or (member.rows.start <= rows.start and rows.stop <= member.rows.stop)
    return (channels, positions, turns) if covered else None


def _sums(block: Tensor, labels: Sequence[Tensor], dims: Set[int]) -> dict[int, Tensor]:
    """Return, for each of these axes, the sums of the hashes of all values at a position, weighted by their labels."""
    sums = {dim: torch.zeros(block.shape[dim], dtype=torch.int64) for dim in dims}
    step = max(1, LARGEST_PIECE * len(block) // max(1, block.numel()))
    for start in range(0, len(block), step):
        piece = _hashed(block[start : start + step])
        weights = [labels[0][start : start + step], *labels[1:]]
        for dim in dims:
            where = sums[dim][start : start + step] if dim == 0 else sums[dim]
            where += _contracted(piece, weights, dim)
    return sums


def _contracted(piece: Tensor, labels: Sequence[Tensor], keep: int) -> Tensor:
    """Return the weighted sums over all axes but one: int64 `[length]`."""
    for axis in reversed(range(piece.dim())):
        if axis != keep:
            label = labels[axis].view(-1, *[1] * (piece.dim() - axis - 1))
            piece = (piece * label).sum(axis, keepdim=True)
    return piece.flatten()
