"""The filters of the selected layers in one ranking: which take part, how strong each is, and which are weakest.

RePr and the one-shot comparator `reinit` choose by it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import Layer, Norm
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.measure.criteria import CRITERIA
from surgeon.measure.filters import filter_count, filter_rows, own_norms
from surgeon.measure.shares import part
from surgeon.methods.base import Inputs

CriterionName = Literal["ortho", "l1", "l2", "gamma", "activation", "apoz", "taylor", "oracle", "random"]


@dataclass(frozen=True)
class Ranking:
    """The layers that take part, with the strength of each of their filters.

    Attributes:
        strengths: by layer, `[filters]` on the CPU, smallest for the weakest filter.
        layers: the same layers, in execution order.
        norms: by layer, the BatchNorm that it has to itself, where it has one.
        skipped: why each of the other selected layers does not take part, one sentence each.
    """

    strengths: Mapping[str, Tensor]
    layers: tuple[Layer, ...]
    norms: Mapping[str, Norm]
    skipped: list[str] = field(default_factory=list)

    @property
    def filters(self) -> int:
        """The number of all filters that are ranked."""
        return sum(scores.numel() for scores in self.strengths.values())


def measured(criterion: str) -> str | None:
    """Return what a method that ranks by this criterion measures on images; see `Method.measures`."""
    return criterion if CRITERIA[criterion].needs_data else None


def check_ratio(method: str, ratio: float, max_per_layer: float) -> None:
    """Refuse a share that could only be taken by emptying layers further than is allowed.

    Raises:
        OptionError: it is larger than the largest share of a layer.
    """
    if ratio > max_per_layer:
        raise OptionError(
            f"The option ratio of {method} is {ratio}, and no layer may lose more than max_per_layer, {max_per_layer}.",
            "Lower ratio, or raise max_per_layer.",
        )


def rank(inputs: Inputs, criterion: str, generator: torch.Generator) -> Ranking:
    """Rank the filters of the selected layers by a criterion.

    Args:
        inputs: the network, with the scores of a criterion that needs images.
        criterion: a name in `CRITERIA`.
        generator: of the criterion `random`.

    Raises:
        LayerError: no layer is left to take part.
        DataError: the criterion needs images and nothing was measured.
    """
    if CRITERIA[criterion].needs_data and not inputs.scores:
        raise DataError(
            f"The criterion {criterion} is measured on images, and there are none.",
            f"Give images with --data, or choose one that needs none: {_listed(needs_data=False)}.",
        )
    layers, skipped = candidates(inputs, criterion)
    norms = own_norms(inputs.graph.layers)
    strengths = {layer.name: _strengths(inputs, layer, norms.get(layer.name), criterion, generator) for layer in layers}
    return Ranking(strengths, layers, norms, skipped)


def candidates(inputs: Inputs, criterion: str) -> tuple[tuple[Layer, ...], list[str]]:
    """Return the selected layers that take part, and why each of the others does not.

    They are the convolutions in the targets, or all of them, and the linear layers that are targets themselves.

    Args:
        inputs: the network; without scores, a criterion that needs images is taken to measure all layers.
        criterion: a name in `CRITERIA`.

    Raises:
        LayerError: no layer is left to take part.
    """
    output = {(axis.tensor, axis.dim) for axis in inputs.graph.frozen if axis.output}
    alone = {(m.tensor, m.dim): why for group, why in inputs.left_alone.items() for m in group.members}
    norms = own_norms(inputs.graph.layers)
    found: list[Layer] = []
    skipped: list[str] = []
    for layer in inputs.layers():
        reason = _unusable(layer, inputs, output, alone, norms.get(layer.name)) or _unranked(
            layer, inputs, criterion, norms
        )
        if reason:
            skipped.append(f"{layer.name}: its filters are left alone: {reason}.")
        else:
            found.append(layer)
    if not found:
        raise _nothing_left(inputs, criterion, skipped)
    return tuple(found), skipped


def shared_norm(layer: Layer, norm: Norm | None) -> list[str]:
    """Return the sentence that a layer's BatchNorm is left alone, where it has one that is not its own."""
    if norm is None and layer.writer is not None and layer.writer.norm is not None:
        return [f"The BatchNorm of {layer.name}: another layer has it too."]
    return []


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


def _unusable(
    layer: Layer,
    inputs: Inputs,
    output: Collection[tuple[str, int]],
    alone: Mapping[tuple[str, int], str],
    norm: Norm | None,
) -> str:
    """Return why a layer's filters cannot start anew, or nothing."""
    if layer.writer is None:
        return "their weights are computed from other tensors"
    place = (layer.writer.weight, layer.filters)
    if place in output:
        return "they are the network's output"
    if not layer.convolution and not set(layer.names) & set(inputs.targets):
        return "a linear layer takes part only where it is named itself"
    own = (layer.writer.weight, layer.writer.bias, *(() if norm is None else (norm.weight, norm.bias)))
    frozen = [key for key in own if key is not None and key in inputs.frozen]
    if frozen:
        return f"{frozen[0]} would not learn, as it is frozen"
    return alone.get(place, "")


def _unranked(layer: Layer, inputs: Inputs, criterion: str, norms: Mapping[str, Norm]) -> str:
    """Return why a layer's filters have no score, or nothing."""
    if criterion == "gamma" and (layer.name not in norms or norms[layer.name].weight is None):
        return "they have no BatchNorm scale of their own"
    if CRITERIA[criterion].needs_data and inputs.scores and layer.name not in inputs.scores:
        return f"their {criterion} was not measured"
    return ""


def _strengths(inputs: Inputs, layer: Layer, norm: Norm | None, criterion: str, generator: torch.Generator) -> Tensor:
    """Return `[filters]` on the CPU, smallest for the weakest filter."""
    known = CRITERIA[criterion]
    assert layer.writer is not None
    if known.needs_data:
        scores = inputs.scores[layer.name]
    elif known.reads == "gamma":
        assert norm is not None
        assert norm.weight is not None
        scores = known.score(inputs.tensors[norm.weight])
    elif known.reads == "weight":
        scores = known.score(filter_rows(inputs.tensors[layer.writer.weight], layer).float())
    else:
        scores = known.score(filter_count(layer, inputs.tensors), generator)
    return known.strength(scores.detach().cpu())


def _nothing_left(inputs: Inputs, criterion: str, skipped: Iterable[str]) -> LayerError:
    ranked = [layer for layer in inputs.layers() if layer.writer is not None and layer.convolution]
    if criterion == "gamma" and ranked:
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
