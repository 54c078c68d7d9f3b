"""`reinit`: start the weakest filters anew, by any criterion: the plain comparator of the other methods.

With the criteria `l2` and `gamma` it is one of the two methods that the SOFM paper compares with in its table 2. Unlike
there, all filters of the selected layers are ranked together, as RePr ranks them, and no layer loses all of its own.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Layer, Member, Norm
from surgeon.edit.plan import Edit, Plan, Reinitialize
from surgeon.errors import DataError, LayerError
from surgeon.measure.criteria import CRITERIA
from surgeon.measure.filters import filter_count, filter_rows, own_norms
from surgeon.measure.shares import part
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.ranges import check_every, check_share

NAME = "reinit"
PAPER = (
    "The comparators of Baddar, Han, Rhee, Han: Self-Reorganizing and Rejuvenating CNNs, table 2;"
    " criteria and ranking after Prakash, Storer, Florencio, Zhang: RePr"
)


@dataclass(frozen=True)
class ReinitConfig:
    """The options of `reinit`; ranges are checked when the config is made."""

    criterion: Literal["ortho", "l1", "l2", "gamma", "activation", "apoz", "taylor", "oracle", "random"] = option(
        "l2",
        "what tells weak filters: overlap with the others of the layer (ortho), norm of the weights (l1, l2), BatchNorm"
        " scale (gamma), chance (random), or on images: mean output (activation), share of zeros (apoz), estimated"
        " change of the loss (taylor), drop in accuracy without the filter (oracle)",
        paper="l2 or gamma",
    )
    ratio: float = option(
        0.3, "share of the filters of all selected layers that start anew, between 0 and 1", paper=0.5
    )
    max_per_layer: float = option(0.9, "largest share of one layer's filters, between 0 and 1")
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning")

    def __post_init__(self) -> None:
        for name in ("ratio", "max_per_layer"):
            check_share(NAME, name, getattr(self, name))
        check_every(NAME, self.every)


def make_plan(inputs: Inputs, config: ReinitConfig) -> Plan:
    """Return the edits that start the weakest filters of the selected layers anew.

    Raises:
        LayerError: no layer is left to take part.
        DataError: the criterion needs images and nothing was measured.
    """
    if CRITERIA[config.criterion].needs_data and not inputs.scores:
        raise DataError(
            f"The criterion {config.criterion} is measured on images, and there are none.",
            f"Give images with --data, or choose one that needs none: {_listed(needs_data=False)}.",
        )
    layers, skipped = candidates(inputs, config)
    if not layers:
        raise _nothing_left(inputs, config, skipped)
    generator = torch.Generator().manual_seed(inputs.seed)
    norms = own_norms(inputs.graph.layers)
    strengths = {layer.name: _strengths(inputs, layer, norms.get(layer.name), config, generator) for layer in layers}
    weakest = choose(strengths, config.ratio, config.max_per_layer)
    edits: list[Edit] = []
    for layer in layers:
        chosen, norm = weakest[layer.name], norms.get(layer.name)
        for group, offset in filter_groups(layer, filter_count(layer, inputs.tensors), norm, inputs.tensors):
            inside = chosen[(chosen >= offset) & (chosen < offset + group.size)] - offset
            if inside.numel():
                seed = int(torch.randint(2**31, (1,), generator=generator))
                edits.append(Reinitialize(group, inside, "keep", seed))
        if chosen.numel() and norm is None and layer.writer is not None and layer.writer.norm is not None:
            skipped.append(f"{layer.name}: its BatchNorm stays as it is; another layer has it too.")
    figures = {
        layer.name: {"renewed": weakest[layer.name].numel(), "filters": strengths[layer.name].numel()}
        for layer in layers
    }
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def candidates(inputs: Inputs, config: ReinitConfig) -> tuple[tuple[Layer, ...], list[str]]:
    """Return the selected layers that take part, and why each of the others does not.

    They are the convolutions in the targets, or all of them, and the linear layers that are targets themselves.
    """
    output = {(axis.tensor, axis.dim) for axis in inputs.graph.frozen if axis.output}
    alone = {(m.tensor, m.dim): why for group, why in inputs.left_alone.items() for m in group.members}
    norms = own_norms(inputs.graph.layers)
    found: list[Layer] = []
    skipped: list[str] = []
    for layer in inputs.layers():
        reason = _unusable(layer, inputs, output, alone) or _unranked(layer, inputs, config, norms)
        if reason:
            skipped.append(f"{layer.name}: its filters are left alone: {reason}.")
        else:
            found.append(layer)
    return tuple(found), skipped


def choose(strengths: Mapping[str, Tensor], ratio: float, max_per_layer: float) -> dict[str, Tensor]:
    """Choose the weakest filters of all layers together, from each layer at most a share.

    Where a layer has given its share, the next weakest filters of other layers take its place. Of equal filters the
    earlier is weaker; one whose strength is NaN is never chosen.

    Args:
        strengths: by layer, `[O]`, smallest for the weakest.
        ratio: share of all filters, between 0 and 1, rounded down.
        max_per_layer: share of each layer's filters, between 0 and 1, rounded down.

    Returns:
        By layer, LongTensor of the chosen filters, ascending.
    """
    everything = torch.cat(list(strengths.values())).double()
    owner = torch.cat([torch.full((len(scores),), index) for index, scores in enumerate(strengths.values())])
    filters = torch.cat([torch.arange(len(scores)) for scores in strengths.values()])
    order = everything.argsort(stable=True)
    order = order[~everything[order].isnan()]
    rank = torch.empty_like(order)
    for index in range(len(strengths)):
        own = owner[order] == index
        rank[own] = torch.arange(int(own.sum()))
    quota = torch.tensor([part(max_per_layer, len(scores)) for scores in strengths.values()])
    order = order[rank < quota[owner[order]]][: part(ratio, len(everything))]
    return {name: filters[order[owner[order] == index]].sort().values for index, name in enumerate(strengths)}


def filter_groups(
    layer: Layer, filters: int, norm: Norm | None, tensors: Mapping[str, Tensor]
) -> Iterable[tuple[ChannelGroup, int]]:
    """Give the channels that a layer's own tensors carry, and the number of the first of them.

    They are one group, or for a grouped transposed convolution, whose filters lie side by side in the same columns,
    one for each group of its.

    Args:
        layer: a layer with a weight.
        filters: number of its filters.
        norm: the BatchNorm that it has to itself.
        tensors: the network's tensors by state-dict key.
    """
    assert layer.writer is not None
    parts = layer.groups if layer.filters else 1
    size = filters // parts
    inputs = tensors[layer.writer.weight].shape[0] // parts
    for number in range(parts):
        start = number * size
        own, shared = torch.arange(size)[:, None], torch.arange(start, start + size)[:, None]
        rows = slice(number * inputs, (number + 1) * inputs) if parts > 1 else None
        members = [Member(layer.writer.weight, layer.filters, "producer", own, rows)]
        affine = (layer.writer.bias, *(() if norm is None else (norm.weight, norm.bias)))
        members += [Member(key, 0, "affine", shared, None) for key in affine if key is not None]
        if norm is not None:
            members += [Member(key, 0, "statistic", shared, None) for key in (norm.running_mean, norm.running_var)]
        yield ChannelGroup(layer.name, size, tuple(members), homogeneous=False), start


def _unusable(
    layer: Layer, inputs: Inputs, output: Collection[tuple[str, int]], alone: Mapping[tuple[str, int], str]
) -> str:
    """Return why a layer's filters cannot start anew, or nothing."""
    if layer.writer is None:
        return "their weights are computed from other tensors"
    place = (layer.writer.weight, layer.filters)
    if place in output:
        return "they are the network's output"
    if not layer.convolution and not set(layer.names) & set(inputs.targets):
        return "a linear layer takes part only where it is named itself"
    return alone.get(place, "")


def _unranked(layer: Layer, inputs: Inputs, config: ReinitConfig, norms: Mapping[str, Norm]) -> str:
    """Return why a layer's filters have no score, or nothing."""
    if config.criterion == "gamma" and (layer.name not in norms or norms[layer.name].weight is None):
        return "they have no BatchNorm scale of their own"
    if CRITERIA[config.criterion].needs_data and layer.name not in inputs.scores:
        return f"their {config.criterion} was not measured"
    return ""


def _strengths(
    inputs: Inputs, layer: Layer, norm: Norm | None, config: ReinitConfig, generator: torch.Generator
) -> Tensor:
    """Return `[filters]` on the CPU, smallest for the weakest filter."""
    criterion = CRITERIA[config.criterion]
    assert layer.writer is not None
    if criterion.needs_data:
        scores = inputs.scores[layer.name]
    elif criterion.reads == "gamma":
        assert norm is not None
        assert norm.weight is not None
        scores = criterion.score(inputs.tensors[norm.weight])
    elif criterion.reads == "weight":
        scores = criterion.score(filter_rows(inputs.tensors[layer.writer.weight], layer).float())
    else:
        scores = criterion.score(filter_count(layer, inputs.tensors), generator)
    return criterion.strength(scores.detach().cpu())


def _nothing_left(inputs: Inputs, config: ReinitConfig, skipped: Iterable[str]) -> LayerError:
    ranked = [layer for layer in inputs.layers() if layer.writer is not None and layer.convolution]
    if config.criterion == "gamma" and ranked:
        return LayerError(
            "No selected layer has a BatchNorm scale of its own for the criterion gamma.",
            f"Choose a criterion that works without: {_listed(needs_data=False, without='gamma')}, or with --data"
            f" {_listed(needs_data=True)}.",
        )
    why = " ".join(list(skipped)[:3]) or "The selection holds no convolution or linear layer."
    return LayerError(
        f"There is no layer whose filters can start anew: {why}", "Choose other layers; `surgeon inspect` lists them."
    )


def _listed(*, needs_data: bool, without: str = "") -> str:
    return ", ".join(name for name, known in CRITERIA.items() if known.needs_data == needs_data and name != without)


def _measured(config: ReinitConfig) -> str | None:
    return config.criterion if CRITERIA[config.criterion].needs_data else None


REINIT = Method(
    name=NAME,
    paper=PAPER,
    summary="Start the weakest filters of the selected layers anew, ranked together by a criterion.",
    config=ReinitConfig,
    make_plan=make_plan,
    measures=_measured,
)
