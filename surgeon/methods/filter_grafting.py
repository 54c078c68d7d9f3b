"""`filter-grafting`: every layer is mixed with the same layer of a second network (Meng et al.).

The layer whose weights hold more information, by the entropy of their histogram, has the larger share. What the paper
leaves open, or does otherwise:

- The entropy uses the natural logarithm, and the histogram covers the range of the layer's own weights with both ends
  included.
- Bias and the scale, shift and running statistics of the BatchNorm right behind a layer belong to it and are mixed by
  its share. Tensors that belong to no layer (a BatchNorm before the convolution, LayerNorm, embeddings) stay.
- A tensor that several layers share is mixed once, by the share of the first of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surgeon.coupling.graph import Writer
from surgeon.edit.plan import Blend, Edit, Plan
from surgeon.errors import OptionError, PlanError
from surgeon.measure.entropy import histogram_entropy
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.ranges import check_every

NAME = "filter-grafting"
MOST_BINS = 2**16
"""Few weights fall into each of more, and their counts take memory."""


@dataclass(frozen=True)
class FilterGraftingConfig:
    """The options of `filter-grafting`; ranges are checked when the config is made."""

    a: float = option(0.4, "how far shares may lie apart, above 0 and up to 1: from 0.5 - a/2 to 0.5 + a/2", paper=0.4)
    c: float = option(500.0, "how fast the share grows with the difference of the entropies, above 0", paper=500)
    bins: int = option(10, "bins of the histogram, at least 2", paper=10)
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning", paper=1)

    def __post_init__(self) -> None:
        if not 0 < self.a <= 1:
            raise OptionError(f"The option a of {NAME} is {self.a}.", "Give a number above 0 and up to 1.")
        if not 0 < self.c < math.inf:
            raise OptionError(f"The option c of {NAME} is {self.c}.", "Give a number above 0.")
        if not 2 <= self.bins <= MOST_BINS:
            raise OptionError(
                f"The option bins of {NAME} is {self.bins}.", f"Give a whole number of at least 2, at most {MOST_BINS}."
            )
        check_every(NAME, self.every)


def grafting_share(own: float, other: float, a: float, c: float) -> float:
    """Return a layer's own share in the mix with its partner.

    Args:
        own: the entropy of its weights.
        other: the entropy of the partner's weights.
        a: how far shares may lie apart, 0 … 1.
        c: how fast the share grows with the difference.

    Returns:
        `a/π · arctan(c · (own − other)) + 0.5`, between `0.5 − a/2` and `0.5 + a/2`.

    Source: Meng et al.: Filter Grafting for Deep Neural Networks, CVPR 2020.
    """
    return a / math.pi * math.atan(c * (own - other)) + 0.5


def make_plan(inputs: Inputs, config: FilterGraftingConfig) -> Plan:
    """Return the edits that mix every layer in the targets with the partner's.

    Raises:
        OptionError: there is no partner.
        PlanError: the partner is another architecture, or weights are not finite.
    """
    if inputs.partner is None:
        raise OptionError(f"The method {NAME} has no second network.", "Name one of the same architecture: --partner.")
    check_partner(inputs.tensors, inputs.partner)
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    skipped: list[str] = []
    mixed: set[str] = set()
    for layer in inputs.layers():
        if layer.writer is None:
            skipped.append(f"{layer.name}: left alone; its weight is computed from other tensors.")
            continue
        own, other = (
            _entropy(tensors, layer.writer.weight, config.bins, whose)
            for tensors, whose in ((inputs.tensors, "network"), (inputs.partner, "partner"))
        )
        share = grafting_share(own, other, config.a, config.c)
        keys = [key for key in tensors_of(layer.writer) if key not in mixed]
        edits += [Blend(key, inputs.partner[key], share) for key in keys]
        mixed.update(keys)
        figures[layer.name] = {"share": share, "entropy": own, "partner_entropy": other}
    skipped += _without_layer(inputs, mixed)
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def check_partner(tensors: Mapping[str, Tensor], partner: Mapping[str, Tensor]) -> None:
    """Refuse a partner of another architecture.

    Raises:
        PlanError: a tensor is missing in one of them or has another shape; names the first one.
    """
    remedy = "Give a checkpoint of the same architecture, with the same classes."
    for key, tensor in tensors.items():
        if key not in partner:
            raise PlanError(f"The partner has no tensor '{key}', which the network has.", remedy)
        if partner[key].shape != tensor.shape:
            shapes = f"{tuple(partner[key].shape)}, in the network {tuple(tensor.shape)}"
            raise PlanError(f"In the partner '{key}' has the shape {shapes}.", remedy)
    for key in partner:
        if key not in tensors:
            raise PlanError(f"The partner has a tensor '{key}', which the network does not have.", remedy)


def tensors_of(writer: Writer) -> tuple[str, ...]:
    """Return the state-dict keys of a layer's weight, its bias, and the BatchNorm right behind it."""
    keys = [writer.weight, writer.bias]
    if writer.norm is not None:
        keys += [writer.norm.weight, writer.norm.bias, writer.norm.running_mean, writer.norm.running_var]
    return tuple(key for key in keys if key is not None)


def _entropy(tensors: Mapping[str, Tensor], key: str, bins: int, whose: str) -> float:
    weight = tensors[key]
    # An infinity or NaN is among the two ends, and a mask of the whole layer would be worth several copies of it.
    if not all(math.isfinite(end) for end in weight.aminmax()):
        raise PlanError(f"The {whose}'s '{key}' holds values that are not finite.", "Give an intact checkpoint.")
    return histogram_entropy(weight, bins)


def _without_layer(inputs: Inputs, mixed: set[str]) -> list[str]:
    """Return a sentence on the tensors of the targets that belong to no layer, if there are any."""
    keys = [
        key
        for key, tensor in inputs.tensors.items()
        if tensor.is_floating_point() and key not in mixed and inputs.includes(key)
    ]
    why = "they are no layer's weight or bias, nor in the BatchNorm right behind one"
    return [f"Left alone, because {why}: {', '.join(keys)}."] if keys else []


FILTER_GRAFTING = Method(
    name=NAME,
    paper="Meng, Cheng, Li, Xu, Ji, Sun, Lu: Filter Grafting for Deep Neural Networks, CVPR 2020",
    summary="Mix every layer with the same layer of a second network; the one with more information has more weight.",
    config=FilterGraftingConfig,
    make_plan=make_plan,
    needs_partner=True,
)
