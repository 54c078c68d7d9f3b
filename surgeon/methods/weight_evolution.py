"""`weight-evolution`: the weakest weights of weak filters are replaced by the strongest of a strong one (Lin et al.).

It is built as Lee and Kim describe and compare it in their paper on kernel reactivation: filters are invalid by the
same two conditions, and in every kernel of an invalid filter one weight gives way to the largest one of the layer's
most valid filter. What the description leaves open:

- The weight that gives way is the one of smallest magnitude; the one that replaces it keeps its sign.
- "In all kernels" includes kernels of a single weight: an invalid filter of 1×1 kernels becomes constant.
- Every share is rounded down; of equal weights the first is taken; linear layers take no part.
"""

from dataclasses import dataclass
from typing import Any

import torch

from surgeon.edit.plan import Edit, Plan, Set
from surgeon.measure.invalid import by_pieces, kernels_of, mean_magnitudes
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.invalid_layers import InvalidLayer, invalid_layers
from surgeon.methods.ranges import check_every, check_share

NAME = "weight-evolution"
WHAT = "smallest weights replaced"


@dataclass(frozen=True)
class WeightEvolutionConfig:
    """The options of `weight-evolution`; ranges are checked when the config is made."""

    alpha: float = option(0.2, "share of the network's filters, by mean magnitude, that may be invalid, in (0, 1)")
    beta: float = option(0.3, "share of each layer's filters, by L1 norm, that may be invalid, in (0, 1)")
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning")

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            check_share(NAME, name, getattr(self, name))
        check_every(NAME, self.every)


def make_plan(inputs: Inputs, config: WeightEvolutionConfig) -> Plan:
    """Return the edits that replace a weight in every kernel of the invalid filters in the targets."""
    layers, skipped = invalid_layers(inputs, config.alpha, config.beta)
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    for layer in layers:
        source, value = strongest(layer)
        if value == 0:
            skipped.append(f"{layer.name}: left alone; all its weights are zero, so there is no stronger one to take.")
            continue
        edit = evolve(layer, value)
        edits.append(edit)
        figures[layer.name] = {
            "filters": len(layer.invalid),
            "invalid_filters": int(layer.invalid.sum()),
            "replaced_weights": edit.count,
            "most_valid_filter": source,
            "value": value,
        }
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def strongest(layer: InvalidLayer) -> tuple[int, float]:
    """Return the number of the layer's most valid filter, and its weight of largest magnitude."""
    # Of equal filters the last is the strongest, as in the ranking: an invalid filter is never the most valid one.
    source = int(mean_magnitudes(layer.weight, layer.filters).argsort(stable=True)[-1])
    weights = layer.weight.select(layer.filters, source).flatten()
    return source, float(weights[weights.abs().argmax()])


def evolve(layer: InvalidLayer, value: float) -> Set:
    """Return the edit that puts a value in the place of the smallest weight of every kernel of the invalid filters."""
    filters, same = layer.numbers, layer.weight.new_full((1,), value)
    if layer.filters == 0 and layer.weights_of_a_kernel == 1:
        # Every weight of a filter is a kernel's smallest one, and they lie side by side.
        return layer.edit(filters, same, WHAT, block_size=layer.side_by_side)
    smallest = by_pieces(layer.weight, layer.filters, lambda rows: kernels_of(rows).abs().argmin(2), filters)
    kernels = layer.kernels(filters[:, None], torch.arange(smallest.shape[1], device=filters.device))
    return layer.edit(kernels.mul_(layer.weights_of_a_kernel).add_(smallest), same, WHAT, block_size=1)


WEIGHT_EVOLUTION = Method(
    name=NAME,
    paper="Lin, Guo, Xing, Xu: Weight Evolution: Improving Deep Neural Networks Training through Evolving Inferior"
    " Weight Values, ACM Multimedia 2021",
    summary="Replace the smallest weight of each kernel of the weakest filters by the largest of the strongest filter.",
    config=WeightEvolutionConfig,
    make_plan=make_plan,
)
