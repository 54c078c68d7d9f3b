"""`reinit`: start the weakest filters anew, by any criterion: the plain comparator of the other methods.

With the criteria `l2` and `gamma` it is one of the two methods that the SOFM paper compares with in its table 2. Unlike
there, all filters of the selected layers are ranked together, as RePr ranks them, and no layer loses all of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Layer, Member, Norm
from surgeon.edit.plan import Edit, Plan, Reinitialize
from surgeon.measure.filters import filter_count
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.ranges import check_every, check_share
from surgeon.methods.ranking import CriterionName, check_ratio, choose, measured, rank, shared_norm

NAME = "reinit"
PAPER = (
    "The comparators of Baddar, Han, Rhee, Han: Self-Reorganizing and Rejuvenating CNNs, table 2;"
    " criteria and ranking after Prakash, Storer, Florencio, Zhang: RePr"
)


@dataclass(frozen=True)
class ReinitConfig:
    """The options of `reinit`; ranges are checked when the config is made."""

    criterion: CriterionName = option(
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
        check_ratio(NAME, self.ratio, self.max_per_layer)
        check_every(NAME, self.every)


def make_plan(inputs: Inputs, config: ReinitConfig) -> Plan:
    """Return the edits that start the weakest filters of the selected layers anew.

    Raises:
        LayerError: no layer is left to take part.
        DataError: the criterion needs images and nothing was measured.
    """
    generator = torch.Generator().manual_seed(inputs.seed)
    ranking = rank(inputs, config.criterion, generator)
    weakest = choose(ranking.strengths, config.ratio, config.max_per_layer)
    edits: list[Edit] = []
    skipped = ranking.skipped
    for layer in ranking.layers:
        chosen, norm = weakest[layer.name], ranking.norms.get(layer.name)
        for group, offset in filter_groups(layer, filter_count(layer, inputs.tensors), norm, inputs.tensors):
            inside = chosen[(chosen >= offset) & (chosen < offset + group.size)] - offset
            if inside.numel():
                seed = int(torch.randint(2**31, (1,), generator=generator))
                edits.append(Reinitialize(group, inside, "keep", seed))
        if chosen.numel():
            skipped += shared_norm(layer, norm)
    figures = {
        name: {"renewed": weakest[name].numel(), "filters": scores.numel()}
        for name, scores in ranking.strengths.items()
    }
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


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


REINIT = Method(
    name=NAME,
    paper=PAPER,
    summary="Start the weakest filters of the selected layers anew, ranked together by a criterion.",
    config=ReinitConfig,
    make_plan=make_plan,
    measures=lambda config: measured(config.criterion),
)
