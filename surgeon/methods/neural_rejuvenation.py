"""`neural-rejuvenation` in place: dead channels start anew where they are, and no width changes (NR-IP of Qiao et al.).

What the paper leaves open, or surgeon settles:

- Which channels may take part is read off the coupling graph: those that one convolution or linear layer writes, with
  depthwise ones behind it. A residual stream, which several write, takes part with `include_residual` only.
- A rejuvenated channel that reads no other one (behind the image, or behind a stream that takes no part) reads the
  surviving ones with random weights: with all of them zero it could never learn anything.
- The bias of a rejuvenated channel starts as its layer's do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Layer
from surgeon.edit.plan import Edit, Plan, Reinitialize, Rescale, Set
from surgeon.errors import LayerError, OptionError
from surgeon.measure.utilization import dead_groups
from surgeon.methods.base import Inputs, Method, Sparsification, option
from surgeon.methods.ranges import check_share
from surgeon.methods.shared_factors import LARGEST_FACTOR, Bounds, shared_factors
from surgeon.methods.weight_edits import set_blocks

NAME = "neural-rejuvenation"


@dataclass(frozen=True)
class NeuralRejuvenationConfig:
    """The options of `neural-rejuvenation`; ranges are checked when the config is made."""

    cross: Literal["keep", "remove"] = option(
        "keep",
        "weights between surviving and rejuvenated channels, which start at zero: learn them (keep), or hold them at"
        " zero during fine-tuning (remove)",
        paper="keep where the network is small for its task, remove on CIFAR",
    )
    rescale: bool = option(
        False, "raise the scales of surviving channels to the initial one, and divide the weights that read them", True
    )
    initial: float = option(1.0, "the scale that BatchNorm starts with, above 0", 1.0)
    include_residual: bool = option(False, "channels of residual streams take part as well")
    sparsify: int = option(
        0,
        "epochs of fine-tuning at most with a growing L1 penalty on the BatchNorm scales, before channels are"
        " rejuvenated; 0 rejuvenates what is dead already",
        paper="up to 30",
    )
    target: Literal["params", "flops"] = option("params", "what the utilization counts")
    below: float = option(
        0.5, "T_r: utilization below which channels are rejuvenated before that many epochs are over, in (0, 1)", 0.5
    )
    delta_r: float = option(
        0.01, "Δr: the penalty grows unless the utilization fell by so much in an epoch, in (0, 1)", 0.01
    )
    delta_lambda: float = option(5e-5, "Δλ: by how much the penalty's coefficient grows, above 0", 5e-5)
    n: int = option(1, "how often channels die and are rejuvenated, at least 1", paper="1 to 3")

    def __post_init__(self) -> None:
        for name in ("below", "delta_r"):
            check_share(NAME, name, getattr(self, name))
        for name, least in (("sparsify", 0), ("n", 1)):
            if getattr(self, name) < least:
                raise OptionError(
                    f"The option {name} of {NAME} is {getattr(self, name)}.",
                    f"Give a whole number of at least {least}.",
                )
        if not 0 < self.delta_lambda < math.inf:
            raise OptionError(f"The option delta_lambda of {NAME} is {self.delta_lambda}.", "Give a number above 0.")
        if self.n > 1 and not self.sparsify:
            raise OptionError(
                f"The option n of {NAME} is {self.n}, and nothing makes channels die again.",
                "Give sparsify=EPOCHS as well.",
            )
        if not 0 < self.initial < math.inf:
            raise OptionError(f"The option initial of {NAME} is {self.initial}.", "Give a finite number above 0.")


def make_plan(inputs: Inputs, config: NeuralRejuvenationConfig) -> Plan:
    """Return the edits that let the dead channels of the selection start anew.

    Raises:
        LayerError: no group of channels takes part, or none of their channels is dead.
    """
    groups, skipped = eligible(inputs, config)
    dead = dead_groups(inputs.graph, inputs.tensors)
    new: dict[ChannelGroup, Tensor] = {}
    for group in groups:
        channels = dead.get(group, torch.empty(0, dtype=torch.int64))
        if channels.numel() == group.size:
            skipped.append(f"{group.name}: left alone; none of its channels is alive, and nothing would pass them.")
        elif channels.numel():
            new[group] = channels
    if not new:
        remedy = "Let some die first: --set sparsify=EPOCHS penalizes the scales for so many epochs of fine-tuning."
        if config.sparsify:
            remedy = "Penalize them for longer, or let the penalty grow faster: --set sparsify=… or delta_lambda=…."
        alive = sum(group.size for group in groups if dead.get(group, torch.empty(0)).numel() < group.size)
        raise LayerError(
            f"No channel can start anew: {alive} of those that take part are alive, with no BatchNorm scale below one "
            f"hundredth of its layer's largest. {' '.join(skipped[:3])}".rstrip(),
            remedy,
        )
    generator = torch.Generator().manual_seed(inputs.seed)
    edits: list[Edit] = []
    if config.rescale:
        edits += rescaling(inputs, groups, new, config.initial)
    for group, channels in new.items():
        edits.append(Reinitialize(group, channels, "keep", int(torch.randint(2**31, (1,), generator=generator))))
    edits += _initial_scales(new, inputs, config.initial)
    edits += cross_entries(inputs, new)
    figures = {group.name: {"rejuvenated": len(channels), "channels": group.size} for group, channels in new.items()}
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def eligible(inputs: Inputs, config: NeuralRejuvenationConfig) -> tuple[list[ChannelGroup], list[str]]:
    """Return the groups that take part, and why each of the others of the selection does not.

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
        reason = inputs.left_alone.get(group) or _unfit(group, layers, inputs, config)
        if reason:
            skipped.append(f"{group.name}: its channels are left alone: {reason}.")
        else:
            found.append(group)
    if not found:
        why = " ".join(skipped[:3]) or "The selection writes no free channels."
        raise LayerError(
            f"There are no channels to rejuvenate: {why}", "Choose other layers; `surgeon inspect` lists the groups."
        )
    return found, skipped


def _unfit(group: ChannelGroup, layers: Mapping[str, Layer], inputs: Inputs, config: NeuralRejuvenationConfig) -> str:
    """Return why a group takes no part, or nothing."""
    norms = {norm.weight for norm in inputs.graph.norms.values()}
    if not any(member.tensor in norms for member in group.members):
        return "no BatchNorm scale tells which are dead"
    for member in group.members:
        if member.role in ("producer", "consumer") and (member.tensor not in layers or member.dim > 1):
            return f"{member.tensor} carries them, which is no convolution's or linear layer's weight"
        if member.tensor in inputs.frozen:
            return f"{member.tensor} is frozen"
    mixing = [writer for writer in group.writers if not _depthwise(layers.get(writer.weight), inputs)]
    if len(mixing) > 1 and not config.include_residual:
        return "several layers write them, as to a residual stream (--set include_residual=true lets them take part)"
    return ""


def _depthwise(layer: Layer | None, inputs: Inputs) -> bool:
    if layer is None or layer.writer is None:
        return False
    return layer.groups > 1 and inputs.tensors[layer.writer.weight].shape[1 - layer.filters] in (1, layer.groups)


def rescaling(
    inputs: Inputs, groups: list[ChannelGroup], new: Mapping[ChannelGroup, Tensor], initial: float
) -> list[Edit]:
    """Return the edit that raises the scales of surviving channels to the initial one, wherever that is exact.

    Source: section 3.2, "Neural rescaling".
    """
    norms = {norm.weight for norm in inputs.graph.norms.values() if norm.weight is not None}
    magnitudes = {key: inputs.tensors[key].detach().double().abs().cpu() for key in norms}
    weak = {key: torch.zeros(len(magnitude), dtype=torch.bool) for key, magnitude in magnitudes.items()}
    for group in groups:
        staying = torch.ones(group.size, dtype=torch.bool).index_fill_(0, new.get(group, torch.arange(0)), False)
        for member in group.members:
            if member.tensor in weak:
                positions = member.positions[staying].flatten()
                weak[member.tensor][positions] = magnitudes[member.tensor][positions] < initial
    factors = shared_factors(inputs.graph.scaling, magnitudes, weak, Bounds(initial, LARGEST_FACTOR, math.inf))
    return [Rescale(inputs.graph.scaling, factors)] if bool((factors != 1).any()) else []


def _initial_scales(new: Mapping[ChannelGroup, Tensor], inputs: Inputs, initial: float) -> list[Edit]:
    """Return the edits that give rejuvenated channels the initial scale, where that is not 1."""
    if initial == 1:
        return []
    norms = {norm.weight for norm in inputs.graph.norms.values() if norm.weight is not None}
    value = torch.full((1,), initial)
    return [
        Set(member.tensor, member.positions[channels].flatten(), value, "set to the initial scale")
        for group, channels in new.items()
        for member in group.members
        if member.tensor in norms
    ]


def cross_entries(inputs: Inputs, new: Mapping[ChannelGroup, Tensor]) -> list[Set]:
    """Return the edits that set all weights between surviving and rejuvenated channels to zero.

    Source: section 3.2, "Parameter reinitialization": W_{R→S} = 0, W_{S→R} = 0.
    """
    edits = []
    for layer in inputs.graph.layers:
        if layer.writer is None:
            continue
        key = layer.writer.weight
        weight = inputs.tensors[key]
        written, read = (_marked(key, role, weight, new) for role in ("producer", "consumer"))
        # A new channel that reads no other new one reads the old ones.
        inputs_of = 1 - layer.filters
        # In a grouped transposed convolution the groups' filters lie side by side, so all of them are looked at.
        apart = layer.filters == 0 or layer.groups == 1
        lonely = ~read.any(inputs_of, keepdim=True) if apart else ~read.any()
        between = (written ^ read) & ~(written & lonely)
        blocks = between.flatten().nonzero().flatten()
        if blocks.numel():
            size = weight.shape[2:].numel()
            what = "set to zero between old and new channels"
            edits.append(set_blocks(key, weight, layer.filters, blocks, torch.zeros(1), what, size))
    return edits


def _marked(key: str, role: str, weight: Tensor, new: Mapping[ChannelGroup, Tensor]) -> Tensor:
    """Return bool of the weight's first two axes: where it writes, or reads, rejuvenated channels."""
    marked = torch.zeros(weight.shape[:2], dtype=torch.bool)
    for group, channels in new.items():
        for member in group.members:
            if member.tensor == key and member.role == role:
                part = marked if member.rows is None else marked[member.rows]
                part.index_fill_(member.dim, member.positions[channels].flatten(), True)
    return marked


def sparsification(inputs: Inputs, config: NeuralRejuvenationConfig) -> Sparsification | None:
    """Return how channels are made to die before, or None where they are not.

    Raises:
        LayerError: no channels take part.
    """
    if not config.sparsify:
        return None
    groups, _ = eligible(inputs, config)
    norms = {norm.weight for norm in inputs.graph.norms.values()}
    scales = {member.tensor for group in groups for member in group.members if member.tensor in norms}
    return Sparsification(
        frozenset(scales), config.sparsify, config.n, config.target, config.below, config.delta_r, config.delta_lambda
    )  # fmt: skip


def check(inputs: Inputs, config: NeuralRejuvenationConfig) -> None:
    """Refuse a selection none of whose channels could ever be rejuvenated; see `eligible`."""
    eligible(inputs, config)


NEURAL_REJUVENATION = Method(
    name=NAME,
    paper="Qiao, Lin, Zhang, Yuille: Neural Rejuvenation: Improving Deep Network Training by Enhancing Computational"
    " Resource Utilization, CVPR 2019",
    summary="Let dead channels start anew in their places, after a phase that lets the unneeded ones die if wanted.",
    config=NeuralRejuvenationConfig,
    make_plan=make_plan,
    sparsification=sparsification,
    holds=lambda config: config.cross == "remove",
    check=check,
)
