"""In which tensors two networks differ, in which channels of them, and by how much."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from types import EllipsisType

import torch
from torch import Tensor

from surgeon.checkpoint.fit import COUNTER
from surgeon.coupling.graph import ChannelGroup, Member
from surgeon.edit.matching import exact
from surgeon.operate.record import ranges

LARGEST_PIECE = 2**22
"""Values that are compared at once, in double precision."""


@dataclass(frozen=True)
class ChannelDifference:
    """Which channels of a group differ in a tensor that carries them.

    Attributes:
        group: the group's name.
        dim: axis of the tensor.
        channels: number of channels with a value that differs.
        size: number of the group's channels.
        which: the channels, such as `0-3,7`.
    """

    group: str
    dim: int
    channels: int
    size: int
    which: str


@dataclass(frozen=True)
class TensorDifference:
    """How far a tensor of the second network is from the first's.

    A value that is NaN in both, or the same infinity, is no difference; one that is not finite in one of them counts as
    a value that differs, but neither in `relative` nor in `largest`.

    Attributes:
        name: state-dict key.
        shape: of both.
        relative: L2 norm of the difference over that of the first tensor; None where that is zero.
        largest: largest absolute difference; None where no finite values are to be compared.
        values: number of values that differ.
        not_finite: number of them that are NaN or infinite in one of both.
        rows: number of positions of axis 0 with a value that differs; 1 for a single number.
        which: these positions, such as `0-3,7`.
        channels: the same for each group that the tensor carries.
    """

    name: str
    shape: tuple[int, ...]
    relative: float | None
    largest: float | None
    values: int
    not_finite: int
    rows: int
    which: str
    channels: tuple[ChannelDifference, ...]


@dataclass(frozen=True)
class Sides:
    """Something that both networks have, and what it is in each of them."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Differences:
    """Everything in which the tensors of two networks differ.

    Attributes:
        tensors: those whose values differ.
        counters: batch counters of normalization layers that differ.
        shapes: tensors of different shapes, which are not compared otherwise.
        dtypes: tensors of different types; their values are compared nevertheless.
        only_in_first: names of tensors that the second network lacks.
        only_in_second: names of tensors that the first network lacks.
        equal: number of tensors with the same values.
        relative: L2 norm of the difference of all floating-point tensors that are compared over that of the first's;
            None where that is zero.
    """

    tensors: tuple[TensorDifference, ...]
    counters: tuple[Sides, ...]
    shapes: tuple[Sides, ...]
    dtypes: tuple[Sides, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]
    equal: int
    relative: float | None

    @property
    def same(self) -> bool:
        """Whether both networks have the same tensors with the same values."""
        return not (
            self.tensors or self.counters or self.shapes or self.dtypes or self.only_in_first or self.only_in_second
        )


def differences(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], groups: Iterable[ChannelGroup] = ()
) -> Differences:
    """Compare two state dicts, in the order of the first.

    Args:
        first: tensors by name, on the CPU.
        second: likewise.
        groups: channel groups whose members are in them; without any, channels are positions of axis 0.
    """
    members: dict[str, list[tuple[ChannelGroup, Member]]] = {}
    for group in groups:
        for member in group.members:
            members.setdefault(member.tensor, []).append((group, member))
    both = [name for name in first if name in second]
    alike = [name for name in both if first[name].shape == second[name].shape]
    found, counters, total = [], [], _Sums()
    for name in alike:
        one, other = first[name], second[name]
        sums, unequal = _compare(one, other)
        if one.is_floating_point() and not name.endswith(COUNTER):
            total.add(sums)
        if not bool(unequal.any()):
            continue
        if name.endswith(COUNTER) and one.numel() == 1:
            counters.append(Sides(name, str(one.item()), str(other.item())))
        else:
            found.append(_difference(name, sums, unequal, members.get(name, [])))
    return Differences(
        tensors=tuple(found),
        counters=tuple(counters),
        shapes=_sides(first, second, both, lambda tensor: str(list(tensor.shape))),
        dtypes=_sides(first, second, both, lambda tensor: str(tensor.dtype).removeprefix("torch.")),
        only_in_first=tuple(name for name in first if name not in second),
        only_in_second=tuple(name for name in second if name not in first),
        equal=len(alike) - len(found) - len(counters),
        relative=total.relative,
    )


@dataclass
class _Sums:
    """Sums over the values that are finite in both tensors."""

    difference: float = 0.0
    first: float = 0.0
    largest: float | None = None
    not_finite: int = 0

    @property
    def relative(self) -> float | None:
        if not self.difference:
            return 0.0
        return sqrt(self.difference) / sqrt(self.first) if self.first else None

    def add(self, other: "_Sums") -> None:
        self.difference += other.difference
        self.first += other.first


def _sides(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Iterable[str], describe: Callable[[Tensor], str]
) -> tuple[Sides, ...]:
    sides = (Sides(name, describe(first[name]), describe(second[name])) for name in names)
    return tuple(one for one in sides if one.first != one.second)


def _compare(one: Tensor, other: Tensor) -> tuple[_Sums, Tensor]:
    """Return the sums of two tensors of one shape, and which of their values differ, bool of that shape."""
    unequal = torch.zeros(one.shape, dtype=torch.bool)
    sums = _Sums()
    for place in _pieces(one):
        a, b = exact(one[place]), exact(other[place])
        apart = (a != b) & ~(a.isnan() & b.isnan())
        finite = a.isfinite() & b.isfinite()
        sums.not_finite += int((apart & ~finite).sum())
        # Infinities would leave NaN in their difference.
        a, b = (side.where(finite, 0).to(torch.promote_types(side.dtype, torch.float64)) for side in (a, b))
        distance = (a - b).abs()
        if bool(finite.any()):
            sums.largest = max(sums.largest or 0.0, float(distance.max()))
        sums.difference += float(distance.square().sum())
        sums.first += float(a.abs().square().sum())
        unequal[place] = apart
    return sums, unequal


def _pieces(tensor: Tensor) -> Iterator[slice | EllipsisType]:
    """Return slices of axis 0 that hold few enough values."""
    if tensor.dim() == 0 or tensor.numel() <= LARGEST_PIECE:
        yield ...
        return
    step = max(1, LARGEST_PIECE * len(tensor) // tensor.numel())
    yield from (slice(start, start + step) for start in range(0, len(tensor), step))


def _difference(
    name: str, sums: _Sums, unequal: Tensor, members: Iterable[tuple[ChannelGroup, Member]]
) -> TensorDifference:
    rows = _along(unequal, 0) if unequal.dim() else unequal[None]
    return TensorDifference(
        name=name,
        shape=tuple(unequal.shape),
        relative=sums.relative,
        largest=sums.largest,
        values=int(unequal.sum()),
        not_finite=sums.not_finite,
        rows=int(rows.sum()),
        which=_which(rows),
        channels=tuple(_channels(unequal, group, member) for group, member in members),
    )


def _channels(unequal: Tensor, group: ChannelGroup, member: Member) -> ChannelDifference:
    block = unequal if member.rows is None else unequal[member.rows]
    channels = _along(block, member.dim)[member.positions].any(1)
    return ChannelDifference(group.name, member.dim, int(channels.sum()), group.size, _which(channels))


def _along(unequal: Tensor, dim: int) -> Tensor:
    """Return at which positions of an axis a value differs, bool `[length]`."""
    return unequal.movedim(dim, 0).flatten(1).any(1) if unequal.dim() > 1 else unequal


def _which(flags: Tensor) -> str:
    return ranges(flags.nonzero().flatten().tolist())
