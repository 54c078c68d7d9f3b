"""The vocabulary of edits. A method returns a plan made of these; only `execute.py` carries them out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from surgeon.coupling.graph import ChannelGroup, Member, Part, Scaling
from surgeon.structure import CrossSets

PIECE = 2**16
"""Entries that are worked on at once: a plan may name a good part of a network's weights."""


@dataclass(frozen=True, eq=False)
class Reorder:
    """New channel i is the old channel `permutation[i]` (LongTensor `[size]`); the function stays."""

    group: ChannelGroup
    permutation: torch.Tensor


@dataclass(frozen=True, eq=False)
class Mix:
    """Channels become weighted sums of channels.

    Attributes:
        group: the channels.
        channels: LongTensor `[n]`, the places that are written.
        producers: float64 `[n, size]`: row i of every producer, affine vector and statistic becomes
            `Σ_o producers[i, o] · row o`.
        consumers: float64 `[n, size]`: column `channels[i]` of every consumer becomes `Σ_o consumers[i, o] · column o`.
        folded: sum the affine maps of a convolution with its BatchNorm, instead of their parameters one by one.
    """

    group: ChannelGroup
    channels: torch.Tensor
    producers: torch.Tensor
    consumers: torch.Tensor
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Reinitialize:
    """Start channels anew: producers as their layers were initialized, BatchNorm at γ=1, β=0, μ=0, σ²=1.

    Attributes:
        group: the channels.
        channels: LongTensor `[n]`.
        consumers: `random` re-initializes the columns that read them, `zero` clears them, so that the new channels do
            not reach the function, `keep` leaves them.
        seed: seed of the new values.
    """

    group: ChannelGroup
    channels: torch.Tensor
    consumers: Literal["random", "zero", "keep"]
    seed: int


@dataclass(frozen=True, eq=False)
class Rescale:
    """Move positive factors from the tensors that read channels to those that write them; the function stays.

    Attributes:
        scaling: which tensors take which factor up.
        factors: float64 `[scaling.size]`, above 0; 1 leaves a channel alone.
    """

    scaling: Scaling
    factors: torch.Tensor


@dataclass(frozen=True, eq=False)
class Set:
    """Entries of one tensor get new values, in blocks of neighbours such as kernels or filters.

    Attributes:
        tensor: state-dict key.
        blocks: int64 or int32 `[n]`, numbers of blocks, each once: the flattened (row-major) tensor is cut into blocks
            of `block_size` entries.
        values: `[n · block_size]`, block by block, or `[1]`, one value for all.
        what: what happens to them, in words.
        filter_size: number of entries of one filter that lie side by side: of a row of axis 0, 1 for a vector.
        columns: None where axis 0 counts the filters; else the length of axis 1, which counts them in a transposed
            convolution, and `filter_size` is that of one of its kernels.
        block_size: number of entries of a block, a divisor of `filter_size`.
        held: fine-tuning leaves the entries, which are zero, as they are, until something else is held.
    """

    tensor: str
    blocks: torch.Tensor
    values: torch.Tensor
    what: str
    filter_size: int = 1
    columns: int | None = None
    block_size: int = 1
    held: bool = False

    @property
    def count(self) -> int:
        """The number of entries that are set."""
        return self.blocks.numel() * self.block_size

    @property
    def entries(self) -> torch.Tensor:
        """The entries' places in the flattened tensor, LongTensor `[n · block_size]`: many times what is kept."""
        return places_of(self.blocks, self.block_size)


@dataclass(frozen=True, eq=False)
class Blend:
    """A tensor becomes `share · itself + (1 - share) · other`.

    Attributes:
        tensor: state-dict key.
        other: a tensor of the same shape.
        share: 0 … 1.
    """

    tensor: str
    other: torch.Tensor
    share: float


@dataclass(frozen=True, eq=False)
class Width:
    """Another number of channels for a group: what is kept stays in its order, and what is added comes last.

    Attributes:
        group: the channels.
        keep: LongTensor `[k]`, the channels that stay, ascending.
        add: how many new ones come behind them, at least 0; `k + add` is at least 1.
    """

    group: ChannelGroup
    keep: torch.Tensor
    add: int

    @property
    def size(self) -> int:
        """The number of channels afterwards."""
        return self.keep.numel() + self.add

    @cached_property
    def dropped(self) -> torch.Tensor:
        """The channels that go, LongTensor, ascending."""
        stays = torch.zeros(self.group.size, dtype=torch.bool).index_fill_(0, self.keep.cpu(), True)
        return (~stays).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Resize:
    """Groups get other widths, all at once, since groups on one axis shift each other; the only edit of its plan.

    The function is that of the network in which nothing reads the dropped channels: new channels start as their layers
    do, BatchNorm at γ=1, β=0, μ=0, σ²=1, and are read by weights of zero.

    Attributes:
        widths: of every group that changes, once.
        seed: seed of the new values.
    """

    widths: tuple[Width, ...]
    seed: int

    @cached_property
    def by_tensor(self) -> Mapping[str, tuple[tuple[Width, Member], ...]]:
        """What happens to every tensor that changes, by state-dict key."""
        found: dict[str, list[tuple[Width, Member]]] = {}
        for width in self.widths:
            for member in width.group.members:
                found.setdefault(member.tensor, []).append((width, member))
        return {key: tuple(pairs) for key, pairs in found.items()}


@dataclass(frozen=True, eq=False)
class Attend:
    """A convolution becomes one with cross-attention; its weights stay.

    Attributes:
        module: its name.
        sets: which of its channels are rejuvenated.
    """

    module: str
    sets: CrossSets


InPlace = Reorder | Mix | Reinitialize | Rescale | Set | Blend
"""Edits that leave a network what its architecture's builder makes."""

Edit = InPlace | Resize | Attend


@dataclass(frozen=True)
class Change:
    """What one edit does to one axis of one tensor.

    Attributes:
        tensor: state-dict key.
        dim: axis.
        rows: None, or the slice of axis 0 concerned.
        positions: LongTensor, positions along `dim` that change.
        channels: number of channels concerned.
        what: what happens, in words.
        part: None where everything at the positions changes; else the edit that says which entries do.
    """

    tensor: str
    dim: int
    rows: slice | None
    positions: torch.Tensor = field(repr=False)
    channels: int
    what: str
    part: Set | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Plan:
    """What a method decided: edits in order, and what it left alone.

    Attributes:
        method: name of the method.
        options: its options, by name.
        targets: the modules whose channels it concerns.
        edits: in the order of execution.
        figures: numbers worth recording (quantization error and the like), by group name.
        skipped: what was left alone, one sentence each.
        shapes: of the tensors that the plan was made for, by state-dict key; `execute` refuses others. Empty where the
            network at hand is the one it was made for.
    """

    method: str
    options: Mapping[str, Any]
    targets: tuple[str, ...]
    edits: tuple[Edit, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def changes(self) -> tuple[Change, ...]:
        """Return every change of every tensor axis, in order of execution."""
        return tuple(change for edit in self.edits for change in changes(edit))


def changes(edit: Edit) -> tuple[Change, ...]:
    """Return what one edit changes, one entry for each tensor axis."""
    if isinstance(edit, Rescale):
        return tuple(change for part in edit.scaling.parts if (change := _scaled(part, edit.factors)).channels)
    if isinstance(edit, Set):
        dim, filters = (0 if edit.columns is None else 1), _filters(edit)
        part = None if edit.columns is None and edit.block_size == edit.filter_size else edit
        return (Change(edit.tensor, dim, None, filters, filters.numel(), edit.what, part),)
    if isinstance(edit, Blend):
        size = edit.other.shape[0] if edit.other.dim() else 1
        return (Change(edit.tensor, 0, None, torch.arange(size), size, "blended with the partner's"),)
    if isinstance(edit, Resize):
        return tuple(_resized(width, member) for width in edit.widths for member in width.group.members)
    if isinstance(edit, Attend):
        sides = enumerate((edit.sets.written, edit.sets.read))
        return tuple(
            Change(f"{edit.module}.weight", dim, None, torch.tensor(side), len(side), "told apart by cross-attention")
            for dim, side in sides
        )
    channels = edit.permutation if isinstance(edit, Reorder) else edit.channels
    result = []
    for member in edit.group.members:
        what = _words(edit, consumer=member.role == "consumer")
        if what:
            positions = member.positions[channels].flatten()
            result.append(Change(member.tensor, member.dim, member.rows, positions, channels.numel(), what))
    return tuple(result)


def places_of(blocks: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the places in a flattened tensor of the entries of blocks `[n]`, LongTensor `[n · block_size]`."""
    return (blocks.long()[:, None] * block_size + torch.arange(block_size, device=blocks.device)).flatten()


def _filters(edit: Set) -> torch.Tensor:
    """Return the numbers of the filters whose entries are set, a piece at a time: blocks can be many."""
    found = []
    for piece in edit.blocks.split(PIECE):
        rows = piece.long() // (edit.filter_size // edit.block_size)
        found.append(torch.unique(rows if edit.columns is None else rows % edit.columns))
    return torch.unique(torch.cat(found)) if found else edit.blocks.long()


def _scaled(part: Part, factors: torch.Tensor) -> Change:
    """Return what a rescaling does to one tensor axis."""
    positions = torch.nonzero((part.scale >= 0) & (factors[part.scale] != 1)).flatten()
    what = "divided by the factors" if part.divided else "multiplied by the factors"
    return Change(part.tensor, part.dim, part.rows, positions, positions.numel(), what)


def _resized(width: Width, member: Member) -> Change:
    """Return what another width does to one tensor axis; the positions are those that go."""
    dropped = width.dropped
    counts = ((dropped.numel(), "removed"), (width.add, "added"))
    what = ", ".join(f"{count} {word}" for count, word in counts if count) or "unchanged"
    positions = member.positions[dropped].flatten()
    return Change(member.tensor, member.dim, member.rows, positions, dropped.numel() + width.add, what)


def _words(edit: Reorder | Mix | Reinitialize, *, consumer: bool) -> str:
    """Return what happens to a producer, affine vector or statistic, or to a consumer; empty for nothing."""
    if isinstance(edit, Reorder):
        return "reordered"
    if isinstance(edit, Mix):
        return "averaged"
    if consumer and edit.consumers != "random":
        return "set to zero" if edit.consumers == "zero" else ""
    return "re-initialized"
