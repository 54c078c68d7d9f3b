"""Compare two checkpoint files: tensors, channels, headers, and whether one is the other in another order."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.checkpoint import Checkpoint, build, find_architecture, read
from surgeon.checkpoint.state_dict import common_prefix
from surgeon.checkpoint.structure_header import STRUCTURE_KEY
from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.chance import beats_chance, without_assigned
from surgeon.edit.matching import Matching, match, same_values
from surgeon.errors import ArchitectureError, CheckpointError, DataError, TraceError
from surgeon.operate.differences import Differences, Sides, TensorDifference, differences
from surgeon.operate.images import trace_for_images
from surgeon.operate.record import strict

LEAST_GAIN = 0.1
"""Share of the distance that an order of channels must take away, where it makes no tensor the same: less is not worth
telling."""

Example = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class File:
    """One of the files.

    Attributes:
        path: where it is.
        sha256: of the file, 64 hexadecimal digits.
        weights: the key of the weights that were taken where it holds several; "" where they are not nested.
        architecture: as in `--arch`, where it is known.
        notes: what a reader should know about it.
    """

    path: str
    sha256: str
    weights: str
    architecture: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reordered:
    """A group whose channels the second network has in another order.

    Attributes:
        group: its name.
        size: number of channels.
        moved: number of channels that are elsewhere.
        order: channel i of the first network is channel `order[i]` of the second.
    """

    group: str
    size: int
    moved: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class Permutation:
    """The order of channels in which the second network is closest to the first.

    Attributes:
        groups: those that are reordered; none where no order brings the networks notably closer, and more than chance.
        groups_searched: number of groups that were searched.
        exact: no tensor that both have in the same shape differs then.
        relative: L2 distance of the floating-point tensors that remains, over the norm of the first's.
        tensors: the tensors that still differ.
        closest: the distance in the closest order that was found, where networks with nothing in common can come as
            close, and `groups` has nothing of it; else None.
    """

    groups: tuple[Reordered, ...]
    groups_searched: int
    exact: bool
    relative: float | None
    tensors: tuple[TensorDifference, ...]
    closest: float | None


@dataclass(frozen=True)
class Diff:
    """What two checkpoints differ in.

    Attributes:
        first: the first file.
        second: the second.
        found: everything in which their tensors differ, as they are.
        metadata: entries of the files' headers that differ; "" where one has none.
        permutation: where the channels of the second are closest to the first's; None where it was not searched.
        not_searched: why it was not; None where it was.
    """

    first: File
    second: File
    found: Differences
    metadata: tuple[Sides, ...]
    permutation: Permutation | None
    not_searched: str | None

    @property
    def same(self) -> bool:
        """Whether both have the same tensors with the same values, in the same network as far as the headers tell."""
        return self.found.same and not self.structures_differ

    @property
    def structures_differ(self) -> bool:
        """Whether the headers give layers other sizes, or other cross-attention, which has no tensors of its own."""
        return any(entry.name == STRUCTURE_KEY for entry in self.metadata)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {"same": self.same, **strict(dataclasses.asdict(self))}


def diff(
    first: str | Path,
    second: str | Path,
    *,
    arch: str | None = None,
    weights: str | None = None,
    other_weights: str | None = None,
    example: Example,
) -> Diff:
    """Compare two checkpoint files.

    Args:
        first: path of a checkpoint in any format that `read` knows.
        second: likewise.
        arch: the architecture of both; found from the files where it is None. Without one they are compared tensor by
            tensor, and no permutation of channels is looked for.
        weights: the key of the weights to take where the first file holds several.
        other_weights: the same for the second.
        example: gives an input of the size that a network takes, for tracing.

    Raises:
        CheckpointError: a file cannot be read, is changed meanwhile, or does not fit `arch`.
        ArchitectureError: `arch` is unknown or cannot be built.
    """
    one, other = read(first, weights), read(second, other_weights)
    groups, reason = _groups((one, other), arch, example) if _differ(one.tensors, other.tensors) else ((), None)
    found = differences(one.tensors, other.tensors, groups)
    permutation = None
    if not found.tensors:
        reason = None if found.same else "No tensor that both hold in the same shape differs in its values."
    elif groups:
        permutation = _permutation(one.tensors, other.tensors, groups, found)
    # The tensors are mapped from the files: what was compared is to be what was hashed.
    one.check_unchanged()
    other.check_unchanged()
    metadata = (
        Sides(key, one.metadata.get(key, ""), other.metadata.get(key, ""))
        for key in dict.fromkeys((*one.metadata, *other.metadata))
    )
    return Diff(
        first=_file(one, arch),
        second=_file(other, arch),
        found=found,
        metadata=tuple(entry for entry in metadata if entry.first != entry.second),
        permutation=permutation,
        not_searched=None if permutation is not None else reason,
    )


def _file(checkpoint: Checkpoint, arch: str | None) -> File:
    try:
        architecture = str(find_architecture(checkpoint, arch))
    except ArchitectureError:
        architecture = None
    return File(str(checkpoint.path), checkpoint.sha256, checkpoint.nested_under, architecture, checkpoint.notes)


def _differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Tell whether any tensors of one shape have other values."""
    both = ((tensor, second[name]) for name, tensor in first.items() if name in second)
    return any(one.shape == other.shape and not same_values(one, other) for one, other in both)


def _groups(
    checkpoints: tuple[Checkpoint, Checkpoint], arch: str | None, example: Example
) -> tuple[tuple[ChannelGroup, ...], str | None]:
    """Return the channel groups of the network that both are of, under the files' names; or why there are none."""
    reasons = []
    for checkpoint in checkpoints:
        try:
            model = build(find_architecture(checkpoint, arch), checkpoint)
        except (ArchitectureError, CheckpointError) as error:
            if arch is not None:
                raise
            reasons.append(f"{error.problem} {error.remedy}")
            continue
        try:
            graph = trace_for_images(model.eval(), example(model))
        except (TraceError, DataError) as error:
            return (), f"{error.problem} {error.remedy}"
        groups = _named_as_in_files(graph.groups, model)
        return groups, None if groups else "No channels of this network can be reordered."
    return (), reasons[0]


def _named_as_in_files(groups: tuple[ChannelGroup, ...], model: nn.Module) -> tuple[ChannelGroup, ...]:
    """The groups without the prefix that all names carry, and with every name of a tensor that has several."""
    state = model.state_dict(keep_vars=True)
    start = len(common_prefix(state.keys()))
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    result = []
    for group in groups:
        own = {(member.tensor, member.dim) for member in group.members}
        members = [
            dataclasses.replace(member, tensor=name[start:])
            for member in group.members
            for name in names[id(state[member.tensor])]
            if name == member.tensor or (name, member.dim) not in own
        ]
        result.append(dataclasses.replace(group, members=tuple(members)))
    return tuple(result)


def _permutation(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], groups: tuple[ChannelGroup, ...], found: Differences
) -> Permutation:
    """Look for the best order of channels; the one that they have is taken where no other is notably better."""
    matching = match(groups, first, second)
    after = differences(first, {**second, **matching.tensors}, groups)
    closest = None
    if _is_notable(after, found) and after.tensors and not beats_chance(matching, first):
        closest = after.relative
        matching = without_assigned(matching)
        after = differences(first, {**second, **matching.tensors}, groups)
    reordered = _reordered(matching)
    if not _is_notable(after, found):
        after, reordered = found, ()
    return Permutation(reordered, len(matching.orders), not after.tensors, after.relative, after.tensors, closest)


def _is_notable(after: Differences, found: Differences) -> bool:
    """Tell whether an order of channels makes more tensors the same, or brings the networks notably closer."""
    before, now = (inf if one.relative is None else one.relative for one in (found, after))
    return len(after.tensors) < len(found.tensors) or now < (1 - LEAST_GAIN) * before


def _reordered(matching: Matching) -> tuple[Reordered, ...]:
    return tuple(
        Reordered(group.name, group.size, moved, tuple(order.tolist()))
        for group, order in matching.orders.items()
        if (moved := int((order != torch.arange(group.size)).sum()))
    )
