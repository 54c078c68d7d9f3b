"""`sofm`: self-reorganizing and rejuvenating CNNs (Baddar, Han, Rhee, Han).

A self-organizing map sorts the channels of a layer by what they show for each class. Channels that land on the same
node are averaged, which frees places; the freed channels start anew. Two things differ from the paper on purpose:
`merge="preserve"` and `consumers="zero"` are ours, and the running statistics of averaged channels are averaged like
γ and β, because recalibration follows.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from surgeon.coupling.graph import Carried, ChannelGroup
from surgeon.edit.mix import foldable
from surgeon.edit.plan import Edit, Mix, Plan, Reinitialize
from surgeon.errors import DataError, OptionError
from surgeon.measure.activations import ClassMeans
from surgeon.methods.base import CLASS_MEANS, Inputs, Method, option
from surgeon.methods.ranges import check_every
from surgeon.methods.self_organizing_map import SelfOrganizingMap, self_organizing_map

PAPER = "Baddar, Han, Rhee, Han: Self-Reorganizing and Rejuvenating CNNs for Increasing Model Capacity Utilization"


@dataclass(frozen=True)
class SofmConfig:
    """The options of `sofm`; ranges are checked when the config is made."""

    ratio: float = option(0.5, "nodes of the map as a share of the channels, above 0 and up to 1", paper=0.5)
    merge: Literal["mean", "preserve"] = option(
        "mean",
        "mean: average filters, scales and shifts one by one, and the columns that read them; preserve: average the "
        "affine maps and sum the columns, so that merging equal channels changes nothing",
        paper="mean",
    )
    consumers: Literal["random", "zero"] = option(
        "random",
        "columns that read the new channels: random, or zero so that they do not reach the output before they learn",
        paper="random",
    )
    every: int | None = option(
        None, "repeat the operation every so many epochs of fine-tuning", paper="20 from scratch"
    )
    init: Literal["pca", "random"] = option("pca", "how the map starts", paper="random")
    som_epochs: int = option(15, "epochs of the map's training")

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise OptionError(f"The option ratio of sofm is {self.ratio}.", "Give a number above 0 and up to 1.")
        check_every("sofm", self.every)
        if self.som_epochs < 1:
            raise OptionError(f"The option som_epochs of sofm is {self.som_epochs}.", "Give a number of at least 1.")


def make_plan(inputs: Inputs, config: SofmConfig) -> Plan:
    """Return the edits that reorganize the channels of every target's output, group by group.

    Raises:
        DataError: the activations are not finite.
    """
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    skipped: list[str] = []
    generator = torch.Generator().manual_seed(inputs.seed)
    edited = set()
    for target in inputs.targets:
        for carried in inputs.graph.outputs.carried(target):
            group = carried.group
            if group in inputs.left_alone or group in edited:
                why = inputs.left_alone.get(group, "they are edited by an earlier target already")
                skipped.append(f"{target}: the channels of '{group.name}' are left alone: {why}.")
                continue
            edited.add(group)
            if config.merge == "preserve":
                skipped += _unfolded(target, group)
            counts, trained = map_channels(inputs.class_means[target], carried, config, generator)
            edits += reorganize(carried, counts, config, seed=int(torch.randint(2**31, (1,), generator=generator)))
            figures[_unique(figures, group.name)] = {
                "target": target,
                "channels": group.size,
                "nodes": counts.shape[0],
                "surviving": int((counts.sum(1) > 0).sum()),
                "quantization_error": trained.quantization_error,
                "topographic_error": trained.topographic_error,
            }
        skipped += [f"{target}: {reason}" for reason in inputs.graph.outputs.reasons(target)]
    return Plan("sofm", _options(config), inputs.targets, tuple(edits), figures, tuple(skipped))


def _unfolded(target: str, group: ChannelGroup) -> list[str]:
    """Return a remark for every weight of a group with BatchNorm that cannot be averaged as one map with it."""
    folded = {writer.weight for writer in foldable(group)}
    normalized = any(member.role == "statistic" for member in group.members)
    return [
        f"{target}: '{member.tensor}' is averaged by itself; it has no BatchNorm of its own right behind it."
        for member in group.members
        if normalized and member.role == "producer" and member.tensor.endswith("weight") and member.tensor not in folded
    ]


def _options(config: SofmConfig) -> dict[str, Any]:
    return dict(vars(config))


def _unique(taken: dict[str, Any], name: str) -> str:
    """Return the name, numbered if a grouped convolution has used it for another group already."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def map_channels(
    means: ClassMeans, carried: Carried, config: SofmConfig, generator: torch.Generator
) -> tuple[torch.Tensor, SelfOrganizingMap]:
    """Train the map on the class-representative activations of one group (paper, sections 2.2 and 2.3).

    Returns:
        `N`, int64 `[K, O]`: the number of classes that send channel o to node k (eq. 2), and the trained map.

    Raises:
        DataError: the activations are not finite.
    """
    mean = means.mean
    classes, channels = mean.shape[0], carried.group.size
    positions = carried.positions.to(mean.device)
    activations = mean.movedim(carried.dim, 1)[:, positions.flatten()]
    samples = activations.reshape(classes * channels, -1).float()
    if not bool(samples.isfinite().all()):
        raise DataError(
            f"The activations of '{carried.group.name}' are not finite.",
            "Check the images' normalization and the checkpoint's weights.",
        )
    nodes = max(1, round(config.ratio * channels))
    trained = self_organizing_map(samples, nodes, generator=generator, init=config.init, epochs=config.som_epochs)
    units = trained.units.cpu().reshape(classes, channels)
    counts = torch.zeros(nodes, channels, dtype=torch.int64)
    columns = torch.arange(channels).expand(classes, -1)
    counts.index_put_((units, columns), torch.ones_like(units), accumulate=True)
    return counts, trained


def reorganize(carried: Carried, counts: torch.Tensor, config: SofmConfig, seed: int) -> list[Edit]:
    """Return the edits for one group: aggregate along the nodes, and start the other channels anew (section 2.4).

    Args:
        carried: the group.
        counts: `N`, int64 `[K, O]`; every channel is counted once for each class.
        config: the options.
        seed: seed of the new values.
    """
    group = carried.group
    visits = counts.sum(1)
    surviving = torch.nonzero(visits > 0).flatten()
    weights = counts[surviving].double()
    producers = weights / visits[surviving].double()[:, None]
    if config.merge == "mean":
        consumers = producers
    else:
        classes = counts.sum(0).double()
        consumers = weights / classes[None, :]
    edits: list[Edit] = [Mix(group, surviving, producers, consumers, folded=config.merge == "preserve")]
    alive = set(surviving.tolist())
    others = torch.tensor([channel for channel in range(group.size) if channel not in alive], dtype=torch.int64)
    if others.numel():
        edits.append(Reinitialize(group, others, config.consumers, seed))
    return edits


SOFM = Method(
    name="sofm",
    paper=PAPER,
    summary="Sort channels by their class-representative activations on a self-organizing map, average those that"
    " agree, and start the freed ones anew.",
    config=SofmConfig,
    make_plan=make_plan,
    scope="target",
    measures=lambda config: CLASS_MEANS,
)
