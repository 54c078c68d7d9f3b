"""Scales of surviving channels are raised to the initial one, and what reads them is divided."""

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.plan import Edit, Rescale
from surgeon.measure.utilization import dead_channels
from surgeon.methods.base import Inputs
from surgeon.methods.rejuvenable import scales_of
from surgeon.methods.shared_factors import LARGEST_FACTOR, Bounds, shared_factors, shortfalls


def rescaling(
    inputs: Inputs, groups: list[ChannelGroup], new: Mapping[ChannelGroup, Tensor], initial: float
) -> tuple[list[Edit], list[str]]:
    """Return the edit that raises the scales of surviving channels to the initial one, wherever that is exact.

    Returns:
        The edit, if there is one, and which scales stay below the initial one, a sentence each.

    Source: section 3.2, "Neural rescaling".
    """
    scaling = inputs.graph.scaling
    norms = {norm.weight for norm in inputs.graph.norms.values() if norm.weight is not None}
    magnitudes = {key: inputs.tensors[key].detach().double().abs().cpu() for key in norms}
    weak = {key: torch.zeros(len(magnitudes[key]), dtype=torch.bool) for key in sorted(scales_of(groups))}
    dead = {key: dead_channels(_without(magnitudes[key], key, new)) for key in weak}
    for group in groups:
        staying = torch.ones(group.size, dtype=torch.bool).index_fill_(0, new.get(group, torch.arange(0)), False)
        for member in group.members:
            if member.tensor in weak:
                positions = member.positions[staying].flatten()
                magnitude = magnitudes[member.tensor]
                # What is dead and stays, since it shuts nothing off, would need a factor without measure.
                weak[member.tensor][positions] = ((magnitude < initial) & ~dead[member.tensor])[positions]
    # No scale is lifted beyond the initial one because another shares its factor: a strong one stays as it is.
    limits = Bounds(initial, LARGEST_FACTOR, initial)
    factors = shared_factors(scaling, magnitudes, weak, limits)
    short = [text for key in weak for text in shortfalls(key, magnitudes[key], weak[key], scaling, factors, limits)]
    return [Rescale(scaling, factors)] if bool((factors != 1).any()) else [], short


def _without(magnitudes: Tensor, key: str, new: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """Return a BatchNorm's scales with zeros for new channels, by whose scales no other one can be told to be dead."""
    places = [
        member.positions[channels].flatten()
        for group, channels in new.items()
        for member in group.members
        if member.tensor == key
    ]
    return magnitudes.index_fill(0, torch.cat(places), 0) if places else magnitudes
