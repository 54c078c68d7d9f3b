"""The weights between surviving and rejuvenated channels."""

from collections.abc import Mapping

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Layer
from surgeon.edit.plan import Attend, Set
from surgeon.methods.base import Inputs
from surgeon.methods.weight_edits import set_blocks
from surgeon.structure import CrossSets


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
        written, read = _kinds(key, weight, new)
        if not (written.any() or read.any()):
            continue
        between, held = _masks(layer, written, read)
        for blocks, stay in ((between & ~held, False), (between & held, True)):
            places = blocks.flatten().nonzero().flatten()
            if places.numel():
                what = "set to zero between old and new channels"
                size = weight.shape[2:].numel()
                zero = torch.zeros(1)
                edits.append(set_blocks(key, weight, layer.filters, places, zero, what, size, held=removed and stay))
    return edits


def attentions(inputs: Inputs, new: Mapping[ChannelGroup, Tensor]) -> tuple[list[Attend], list[str]]:
    """Return the edits that let surviving and rejuvenated channels attend to each other.

    Args:
        inputs: what the method is given.
        new: by group, the rejuvenated channels, LongTensor.

    Returns:
        One for every layer in which `cross_entries` would remove something, as far as it is a plain convolution that is
        used under one name; and a sentence for each other one, whose connections stay.

    Source: section 3.3, eq. 9 and 10.
    """
    edits, left = [], []
    for layer in inputs.graph.layers:
        if layer.writer is None:
            continue
        written, read = _kinds(layer.writer.weight, inputs.tensors[layer.writer.weight], new)
        if not (written.any() and read.any() and _masks(layer, written, read)[1].any()):
            continue
        if layer.names == (layer.name,) and layer.name in inputs.attendable:
            sides = (written.all(1), read.all(0))
            edits.append(Attend(layer.name, CrossSets(*(tuple(side.nonzero().flatten().tolist()) for side in sides))))
        else:
            left.append(
                f"{layer.name}: its surviving and rejuvenated channels are connected as before, for only a plain "
                "convolution that is used under one name is given cross-attention."
            )
    return edits, left


def _kinds(key: str, weight: Tensor, new: Mapping[ChannelGroup, Tensor]) -> tuple[Tensor, Tensor]:
    """Return bool of the weight's first two axes: where it writes rejuvenated channels, and where it reads some."""
    return _marked(key, "producer", weight, new), _marked(key, "consumer", weight, new)


def _masks(layer: Layer, written: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Return bool of the weight's first two axes: what lies between old and new channels, and what may be held."""
    # Axis 0 has the groups of a grouped convolution side by side, of a transposed one as well.
    parts = [_between(*part, 1 - layer.filters) for part in _paired(written, read, layer.groups)]
    between, held = (torch.cat(masks) for masks in zip(*parts, strict=True))
    return between, held


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
