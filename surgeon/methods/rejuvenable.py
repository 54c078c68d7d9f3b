"""Which channels neural rejuvenation may let start anew, and which of these are dead.

A group of channels takes part only where a dead scale proves a channel useless: a BatchNorm with a scale is right
behind every layer that adds to it, some layer reads it, and on the way there no channel meets another.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Layer
from surgeon.errors import LayerError
from surgeon.measure.filters import is_depthwise
from surgeon.measure.utilization import dead_channels, dead_groups
from surgeon.methods.base import Inputs

Layers = Mapping[str, Layer]
"""Every layer that has a weight of its own, by its state-dict key."""


def eligible(inputs: Inputs, *, residual: bool) -> tuple[list[ChannelGroup], list[str]]:
    """Return the groups that take part, and why each of the others of the selection does not.

    Args:
        inputs: what the method is given.
        residual: residual streams take part as well.

    Raises:
        LayerError: there is none.
    """
    layers = {layer.writer.weight: layer for layer in inputs.graph.layers if layer.writer is not None}
    found: list[ChannelGroup] = []
    skipped: list[str] = []
    for group in inputs.graph.groups:
        written = [layers[writer.weight] for writer in group.writers if writer.weight in layers]
        if not any(inputs.selects(layer) for layer in written):
            continue
        reason = inputs.left_alone.get(group) or _unfit(group, layers, inputs, residual=residual)
        if reason:
            skipped.append(_left_alone(group, reason))
        else:
            found.append(group)
    found, partly = _whole_norms(found, inputs)
    skipped += partly + _dead_and_fixed(inputs)
    if not found:
        if not any(norm.weight is not None for norm in inputs.graph.norms.values()):
            raise LayerError(
                "The network has no BatchNorm with scales, which alone tell which channels are dead.",
                "Choose a method that looks at weights or activations: `surgeon methods` lists them.",
            )
        why = " ".join(dict.fromkeys(skipped[:3])) or "The selection writes no free channels."
        raise LayerError(
            f"There are no channels to rejuvenate: {why}", "Choose other layers; `surgeon inspect` lists the groups."
        )
    return found, skipped


def scales_of(groups: Collection[ChannelGroup]) -> frozenset[str]:
    """Return the state-dict keys of the BatchNorm scales right behind the layers that write groups that take part."""
    norms = (writer.norm for group in groups for writer in group.writers)
    return frozenset(norm.weight for norm in norms if norm is not None and norm.weight is not None)


def dead_channels_of(
    graph: CouplingGraph, tensors: Mapping[str, Tensor], groups: Sequence[ChannelGroup]
) -> tuple[dict[ChannelGroup, Tensor], list[str]]:
    """Return the dead channels of groups that take part, but for those of a BatchNorm without a living one.

    Args:
        graph: the network's coupling graph.
        tensors: the network's tensors by state-dict key.
        groups: what `eligible` has returned.

    Returns:
        By group the numbers of the channels, LongTensor, at least one; and what is left alone, a sentence each.
    """
    every = dead_groups(graph, tensors)
    dead = {group: every[group] for group in groups if group in every}
    living = {key: torch.ones(len(tensors[key]), dtype=torch.bool) for key in scales_of(groups)}
    for group, channels in dead.items():
        for member in group.members:
            if member.tensor in living:
                living[member.tensor][member.positions[channels].flatten()] = False
    silent = {key for key, alive in living.items() if not bool(alive.any())}
    new: dict[ChannelGroup, Tensor] = {}
    skipped = []
    for group, channels in dead.items():
        if scales_of([group]) & silent:
            skipped.append(_left_alone(group, "a BatchNorm of theirs has no living one, and nothing would pass"))
        else:
            new[group] = channels
    return new, skipped


def _left_alone(group: ChannelGroup, reason: str) -> str:
    return f"{group.name}: its channels are left alone: {reason}."


def _unfit(group: ChannelGroup, layers: Layers, inputs: Inputs, *, residual: bool) -> str:
    """Return why a group takes no part, or nothing."""
    passage = inputs.graph.passage
    own: set[str | None] = set()
    for writer in group.writers:
        own |= {writer.weight, writer.bias}
        if writer.norm is not None:
            own |= {writer.norm.weight, writer.norm.bias, writer.norm.running_mean, writer.norm.running_var}
    for member in group.members:
        if member.role in ("producer", "consumer"):
            if member.tensor not in layers or member.dim > 1:
                return f"{member.tensor} carries them, which is no convolution's or linear layer's weight"
        elif member.tensor not in own:
            return f"{member.tensor} carries them as well, and is not right behind a layer that writes them alone"
        if member.tensor in inputs.frozen:
            return f"{member.tensor} is frozen"
    if not any(member.role == "consumer" for member in group.members):
        return "no layer reads them"
    adding = [writer for writer in group.writers if writer.weight not in passage.gates]
    for writer in adding:
        if writer.norm is None or writer.norm.weight is None:
            return f"no BatchNorm scale right behind {writer.weight} tells which are dead"
        if writer.weight not in passage.apart:
            return passage.reasons.get(writer.weight, f"what reads {writer.weight}'s channels is not known")
    if not adding:
        return "no BatchNorm scale tells which are dead"
    streams = [writer for writer in adding if not is_depthwise(layers[writer.weight], inputs.tensors)]
    if len(streams) > 1 and not residual:
        return "several layers write them, as to a residual stream (--set include_residual=true lets them take part)"
    return ""


def _dead_and_fixed(inputs: Inputs) -> list[str]:
    """Return a sentence for every BatchNorm of the selection that has dead channels whose positions are fixed."""
    chosen = {norm.weight for norm in inputs.norms().values()}
    chosen |= {layer.writer.norm.weight for layer in inputs.layers() if layer.writer and layer.writer.norm}
    fixed = {
        norm.weight: dead_channels(inputs.tensors[norm.weight]).cpu()
        for norm in inputs.graph.norms.values()
        if norm.weight is not None and norm.weight in chosen
    }
    for group in inputs.graph.groups:
        for member in group.members:
            if member.tensor in fixed:
                fixed[member.tensor][member.positions.flatten()] = False
    reasons = {axis.tensor: axis.reason for axis in reversed(inputs.graph.frozen)}
    return [
        f"{key.rpartition('.')[0]}: {int(dead.sum())} dead channels of it are left alone: "
        f"{reasons.get(key, 'They are not free.')}"
        for key, dead in fixed.items()
        if bool(dead.any())
    ]


def _whole_norms(groups: list[ChannelGroup], inputs: Inputs) -> tuple[list[ChannelGroup], list[str]]:
    """Leave out the groups that share a BatchNorm with channels that take no part: its scales are penalized as one."""
    skipped: list[str] = []
    while True:
        covered = {key: torch.zeros(len(inputs.tensors[key]), dtype=torch.bool) for key in scales_of(groups)}
        for group in groups:
            for member in group.members:
                if member.tensor in covered:
                    covered[member.tensor][member.positions.flatten()] = True
        shared = {key for key, taken in covered.items() if not bool(taken.all())}
        if not shared:
            return groups, skipped
        why = "some channels of the same BatchNorm cannot take part"
        skipped += [_left_alone(group, why) for group in groups if scales_of([group]) & shared]
        groups = [group for group in groups if not scales_of([group]) & shared]
