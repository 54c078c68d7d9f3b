"""The vocabulary of edits. A method returns a plan made of these; only `execute.py` carries them out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from surgeon.coupling.graph import ChannelGroup


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


Edit = Reorder | Mix | Reinitialize


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
    """

    tensor: str
    dim: int
    rows: slice | None
    positions: torch.Tensor = field(repr=False)
    channels: int
    what: str


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
    """

    method: str
    options: Mapping[str, Any]
    targets: tuple[str, ...]
    edits: tuple[Edit, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def changes(self) -> tuple[Change, ...]:
        """Return every change of every tensor axis, in order of execution."""
        return tuple(change for edit in self.edits for change in changes(edit))


def changes(edit: Edit) -> tuple[Change, ...]:
    """Return what one edit changes, one entry for each tensor axis."""
    channels = edit.permutation if isinstance(edit, Reorder) else edit.channels
    result = []
    for member in edit.group.members:
        what = _words(edit, consumer=member.role == "consumer")
        if what:
            positions = member.positions[channels].flatten()
            result.append(Change(member.tensor, member.dim, member.rows, positions, channels.numel(), what))
    return tuple(result)


def _words(edit: Edit, *, consumer: bool) -> str:
    """Return what happens to a producer, affine vector or statistic, or to a consumer; empty for nothing."""
    if isinstance(edit, Reorder):
        return "reordered"
    if isinstance(edit, Mix):
        return "averaged"
    if consumer and edit.consumers != "random":
        return "set to zero" if edit.consumers == "zero" else ""
    return "re-initialized"
