"""Where channels lie along a tensor axis, and where they lie once their groups have other widths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from surgeon.coupling.graph import ChannelGroup, Member, Role
from surgeon.edit.plan import Resize, Width

ADDED = -1
"""Stands for the old position of a place that is new."""

Shape = Sequence[int]


@dataclass(frozen=True)
class Run:
    """All channels of a group side by side, in order: channel c has the `inner` places from `start + c · inner` on."""

    start: int
    inner: int


def runs_of(member: Member) -> tuple[Run, ...] | None:
    """Return the runs that a member's positions consist of, in order; None where they are no runs.

    A flatten makes one run with `inner` above 1, a repeated tensor several runs; a channel shuffle makes none.
    """
    positions = member.positions.sort(1).values
    size = len(positions)
    if size < 2:
        # The end of a run shows where the next channel begins, and there is none.
        return (Run(int(positions[0, 0]), 1),) if size and positions.shape[1] == 1 else None
    first = positions[0]
    starts = torch.cat([first[:1], first[1:][first.diff() != 1]])
    inner = torch.diff(torch.searchsorted(first, starts), append=torch.tensor([len(first)]))
    runs = [Run(*pair) for pair in zip(starts.tolist(), inner.tolist(), strict=True)]
    channels = torch.arange(size)[:, None]
    expected = torch.cat([run.start + channels * run.inner + torch.arange(run.inner) for run in runs], 1)
    return tuple(runs) if torch.equal(expected, positions) else None


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a tensor (or of some of its rows) on which groups get other widths.

    Attributes:
        dim: the axis.
        rows: None, or the slice of the old axis 0 concerned.
        role: what the axis is to the channels.
        length: its old length.
        runs: the runs of the groups that change, in order, each with its width.
    """

    dim: int
    rows: slice | None
    role: Role
    length: int
    runs: tuple[tuple[Run, Width], ...]

    @cached_property
    def sources(self) -> torch.Tensor:
        """For every new position the old one, or `ADDED`; LongTensor."""
        pieces, place = [], 0
        for run, width in self.runs:
            kept = run.start + width.keep.cpu()[:, None] * run.inner + torch.arange(run.inner)
            pieces += [torch.arange(place, run.start), kept.flatten(), torch.full((width.add * run.inner,), ADDED)]
            place = _end(run, width)
        return torch.cat([*pieces, torch.arange(place, self.length)])

    @cached_property
    def added(self) -> torch.Tensor:
        """The new positions of what is added, LongTensor."""
        return (self.sources == ADDED).nonzero().flatten()

    @cached_property
    def moved(self) -> torch.Tensor:
        """For every old position the new one, or -1 where it goes; LongTensor."""
        result = torch.full((self.length,), -1)
        stays = (self.sources != ADDED).nonzero().flatten()
        result[self.sources[stays]] = stays
        return result

    def boundary(self, place: int) -> int:
        """Return where an old place between two positions lies now, one that no run goes across."""
        return place + sum(
            (width.size - width.group.size) * run.inner for run, width in self.runs if _end(run, width) <= place
        )

    def crosses(self, place: int) -> bool:
        """Return whether a run goes across the place before a position."""
        return any(run.start < place < _end(run, width) for run, width in self.runs)

    def positions(self, member: Member) -> torch.Tensor:
        """Return where a member on this axis lies now, `[new size, repeat]`, its copies in order."""
        group = next((width.group for _, width in self.runs if member in width.group.members), None)
        if group is None:
            return self.moved[member.positions].sort(1).values
        found = []
        for run, width in self.runs:
            if width.group is group:
                channels = torch.arange(width.size)[:, None]
                found.append(self.boundary(run.start) + channels * run.inner + torch.arange(run.inner))
        return torch.cat(found, 1)


def axes_of(edit: Resize, key: str, shape: Shape) -> tuple[Axis, ...]:
    """Return the axes of one tensor that change.

    Args:
        edit: the new widths, of groups whose members all consist of runs.
        key: state-dict key.
        shape: the tensor's old shape.
    """
    found: dict[tuple[int, int, int], list[tuple[Run, Width]]] = {}
    first: dict[tuple[int, int, int], Member] = {}
    for width, member in edit.by_tensor.get(key, ()):
        place = (member.dim, *((-1, -1) if member.rows is None else (member.rows.start, member.rows.stop)))
        runs = runs_of(member)
        assert runs is not None, f"The channels of {member.tensor} do not lie side by side."
        found.setdefault(place, []).extend((run, width) for run in runs)
        first.setdefault(place, member)
    return tuple(
        Axis(
            member.dim,
            member.rows,
            member.role,
            shape[member.dim],
            tuple(sorted(found[place], key=lambda pair: pair[0].start)),
        )
        for place, member in first.items()
    )


def new_rows(axes: Iterable[Axis], rows: slice | None) -> slice | None:
    """Return a slice of a tensor's old rows in the new ones."""
    whole = next((axis for axis in axes if axis.dim == 0), None)
    return rows if rows is None or whole is None else slice(whole.boundary(rows.start), whole.boundary(rows.stop))


def new_shape(axes: Sequence[Axis], shape: Shape) -> tuple[int, ...] | None:
    """Return a tensor's shape with its axes as they are then; None where slices of rows would differ in length."""
    lengths = list(shape)
    for dim in {axis.dim for axis in axes}:
        there = [axis for axis in axes if axis.dim == dim]
        found = {len(axis.sources) for axis in there}
        rows = sum(shape[0] if axis.rows is None else axis.rows.stop - axis.rows.start for axis in there)
        if rows < shape[0]:
            found.add(shape[dim])
        if len(found) > 1:
            return None
        lengths[dim] = found.pop()
    return tuple(lengths)


def relaid(tensor: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Return a tensor of the old shape in the new one, with zeros in the places that are new."""
    by_rows = [axis for axis in axes if axis.rows is not None]
    for dim in {axis.dim for axis in by_rows}:
        tensor = _relaid_by_rows(tensor, [axis for axis in by_rows if axis.dim == dim])
    for axis in axes:
        if axis.rows is None:
            tensor = _relaid(tensor, axis)
    return tensor


def _relaid_by_rows(tensor: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
    """Do so with an axis that is another one for each slice of rows."""
    pieces, place = [], 0
    for axis in sorted(axes, key=lambda one: one.rows.start if one.rows else 0):
        assert axis.rows is not None
        pieces += [tensor[place : axis.rows.start], _relaid(tensor[axis.rows], axis)]
        place = axis.rows.stop
    return torch.cat([piece for piece in [*pieces, tensor[place:]] if len(piece)])


def _relaid(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    taken = tensor.index_select(axis.dim, axis.sources.clamp(min=0).to(tensor.device))
    return taken.index_fill_(axis.dim, axis.added.to(tensor.device), 0) if axis.added.numel() else taken


def _end(run: Run, width: Width) -> int:
    return run.start + width.group.size * run.inner


Places = tuple[str, int, tuple[int, int] | None, tuple[int, ...], bytes]
"""A member as something that can be compared: tensor, axis, rows, and the positions of every channel."""


def places(member: Member, rows: slice | None, positions: torch.Tensor) -> Places:
    """Return a member as something that can be compared."""
    ends = None if rows is None else (rows.start, rows.stop)
    return member.tensor, member.dim, ends, tuple(positions.shape), positions.contiguous().numpy().tobytes()


def places_now(group: ChannelGroup) -> frozenset[Places]:
    """Return where a group's channels lie."""
    return frozenset(places(member, member.rows, member.positions.sort(1).values) for member in group.members)


def places_then(group: ChannelGroup, axes: Mapping[str, Sequence[Axis]]) -> frozenset[Places]:
    """Return where a group's channels will lie.

    Args:
        group: one that gets another width, or another one of the network.
        axes: those that change, by tensor.
    """
    found = []
    for member in group.members:
        there = axes.get(member.tensor, ())
        axis = next((axis for axis in there if axis.dim == member.dim and axis.rows == member.rows), None)
        positions = member.positions.sort(1).values if axis is None else axis.positions(member)
        found.append(places(member, new_rows(there, member.rows), positions))
    return frozenset(found)
