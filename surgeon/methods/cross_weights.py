"""The weights between surviving and rejuvenated channels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.plan import Set
from surgeon.methods.base import Inputs
from surgeon.methods.weight_edits import set_blocks


def cross_entries(inputs: Inputs, new: Mapping[ChannelGroup, Tensor], *, removed: bool) -> list[Set]:
    """Return the edits that set all weights between surviving and rejuvenated channels to zero.

    A rejuvenated channel that reads no other one keeps reading the surviving ones. What is removed for good lies only
    where a layer (or a group of a grouped convolution) writes some rejuvenated channels and reads both kinds: wherever
    else rejuvenated channels are read, these weights are their only way to the output.

    Args:
        inputs: what the method is given.
        new: by group, the rejuvenated channels, LongTensor.
        removed: hold the zeros there during fine-tuning.

    Source: section 3.2, "Parameter reinitialization": W_{R→S} = 0, W_{S→R} = 0; section 3.3, eq. 6 (removed).
    """
    edits = []
    for layer in inputs.graph.layers:
        if layer.writer is None:
            continue
        key = layer.writer.weight
        weight = inputs.tensors[key]
        written, read = (_marked(key, role, weight, new) for role in ("producer", "consumer"))
        if not (written.any() or read.any()):
            continue
        # Axis 0 has the groups of a grouped convolution side by side, of a transposed one as well.
        parts = [_between(*part, 1 - layer.filters) for part in _paired(written, read, layer.groups)]
        between, held = (torch.cat(masks) for masks in zip(*parts, strict=True))
        for blocks, stay in ((between & ~held, False), (between & held, True)):
            places = blocks.flatten().nonzero().flatten()
            if places.numel():
                what = "set to zero between old and new channels"
                size = weight.shape[2:].numel()
                zero = torch.zeros(1)
                edits.append(set_blocks(key, weight, layer.filters, places, zero, what, size, held=removed and stay))
    return edits


def _paired(written: Tensor, read: Tensor, groups: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(written.chunk(groups), read.chunk(groups), strict=True))


def _between(written: Tensor, read: Tensor, inputs_of: int) -> tuple[Tensor, Tensor]:
    """Return bool of one group's weight: what lies between old and new channels, and what of it may be held."""
    lonely = ~read.any(inputs_of, keepdim=True)
    both = ~lonely & ~read.all(inputs_of, keepdim=True) & written.any()
    between = (written ^ read) & ~(written & lonely)
    return between, between & both


def _marked(key: str, role: str, weight: Tensor, new: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """Return bool of the weight's first two axes: where it writes, or reads, rejuvenated channels."""
    marked = torch.zeros(weight.shape[:2], dtype=torch.bool)
    for group, channels in new.items():
        for member in group.members:
            if member.tensor == key and member.role == role:
                part = marked if member.rows is None else marked[member.rows]
                part.index_fill_(member.dim, member.positions[channels].flatten(), True)
    return marked
