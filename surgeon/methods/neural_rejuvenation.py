"""`neural-rejuvenation`: dead channels start anew, where they are (NR-IP of Qiao et al.) or where they are needed (NR).

What the paper leaves open, or surgeon settles:

- Which channels may take part is read off the coupling graph: those that one convolution or linear layer writes, with
  depthwise ones behind it and gates that multiply it. A residual stream, to which several add, takes part with
  `include_residual` only. Channels whose deadness no scale proves never do; see `rejuvenable.py`.
- A rejuvenated channel that reads no other one (behind the image, or behind a stream that takes no part) reads the
  surviving ones with random weights: with all of them zero it could never learn anything.
- Weights are held at zero (`cross=remove`) only in layers that write rejuvenated channels and read both kinds; the
  classifier and the layers that add to a stream learn to read the rejuvenated ones. Each further rejuvenation (`n`)
  holds what it has set to zero itself, and lets go of what the one before has.
- The bias of a rejuvenated channel starts as its layer's do.
- What a dead channel's shift has given to those that read it, a constant per image, is lost with it.
- With `in_place=false` dead channels are dropped and new ones added, so that layers get other widths; see
  `reallocation.py`. Whoever carries that plan out asks `resized` for what the new network's weights are to be: its new
  channels then play the part that dead ones have in place. Where a layer's width cannot change, its dead channels start
  anew in their places.
- Cross-attention begins with the last rejuvenation: a convolution knows one division into two kinds, and would compute
  something else with another one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.plan import Attend, Edit, Plan, Reinitialize, Set
from surgeon.errors import LayerError, OptionError
from surgeon.measure.utilization import shares_in_use
from surgeon.methods.base import Inputs, Method, Sparsification, option
from surgeon.methods.cross_weights import attentions, cross_entries
from surgeon.methods.ranges import check_share
from surgeon.methods.rejuvenable import dead_channels_of, eligible, scales_of
from surgeon.methods.rescaling import rescaling
from surgeon.methods.resizing import ALLOCATION, Aim, changeable, free_families, needed, reallocated

NAME = "neural-rejuvenation"

NO_ATTENTION = (
    "No layer writes rejuvenated channels and reads both kinds (of a block of two convolutions, none does), so there is"
    " no cross-attention."
)


@dataclass(frozen=True)
class NeuralRejuvenationConfig:
    """The options of `neural-rejuvenation`; ranges are checked when the config is made."""

    cross: Literal["keep", "remove", "attend"] = option(
        "keep",
        "weights between surviving and rejuvenated channels, which start at zero: learn them (keep), or where a layer"
        " writes rejuvenated channels and reads both kinds hold them at zero during fine-tuning (remove), or learn them"
        " behind a gate that the other kind's answer opens, which makes it another network (attend)",
        paper="attend on ImageNet, keep where the network is small for its task, remove on CIFAR",
    )
    in_place: bool = option(
        True,
        "rejuvenate channels where they are; false drops them, and makes the layers wider in which most live, which"
        " makes it another network",
        False,
    )
    resource: float = option(
        1.0, "without in_place: what the network may cost then, as a share of what it costs at first, in (0, 1]", 1.0
    )
    round_to: int = option(1, "without in_place: widths are multiples of it, at least 1", 1)
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
        0.01, "Δr: the penalty grows unless the utilization fell by more in an epoch, in (0, 1)", 0.01
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
        _check_resizing(self)
        if not 0 < self.initial < math.inf:
            raise OptionError(f"The option initial of {NAME} is {self.initial}.", "Give a finite number above 0.")


def _check_resizing(config: NeuralRejuvenationConfig) -> None:
    if not 0 < config.resource <= 1:
        raise OptionError(
            f"The option resource of {NAME} is {config.resource}.", "Give a number above 0, and 1 at most."
        )
    if config.round_to < 1:
        raise OptionError(f"The option round_to of {NAME} is {config.round_to}.", "Give a whole number of at least 1.")
    for name, value in (("resource", config.resource), ("round_to", config.round_to)):
        if config.in_place and value != 1:
            raise OptionError(
                f"The option {name} of {NAME} is {value}, and in place every layer keeps its width.",
                "Give in_place=false as well.",
            )
    if config.sparsify and config.below > config.resource:
        raise OptionError(
            f"The option below of {NAME} is {config.below}, so that more may live than the resource of"
            f" {config.resource} allows.",
            f"Give below={config.resource} or less; the paper has half of the resource.",
        )


def make_plan(inputs: Inputs, config: NeuralRejuvenationConfig) -> Plan:
    """Return the edits that let the dead channels of the selection start anew, in place or elsewhere.

    Raises:
        LayerError: no group of channels takes part, none of their channels is dead, no width can change that is to, or
            what lives costs more than it may.
    """
    groups, skipped = eligible(inputs, residual=config.include_residual)
    new, silent = dead_channels_of(inputs.graph, inputs.tensors, groups)
    skipped += silent
    if not new:
        raise _nothing_dead(sum(group.size for group in groups), skipped, config)
    if config.in_place:
        return _started_anew(inputs, config, groups, new, skipped)
    free, of_fixed_width = free_families(inputs, groups)
    skipped += of_fixed_width
    # After epochs in which channels were to die, a network that is too large is better than none.
    resize, figures = reallocated(inputs, free, new, _aim(config), inputs.seed, strict=not config.sparsify)
    if resize is None:
        return _started_anew(inputs, config, groups, new, skipped)
    return Plan(NAME, dict(vars(config)), inputs.targets, (resize,), figures, tuple(skipped))


def resized(inputs: Inputs, config: NeuralRejuvenationConfig, added: Mapping[ChannelGroup, Tensor]) -> Plan:
    """Return what follows on a plan that has changed widths.

    Args:
        inputs: of the network as it is now.
        config: the options.
        added: by group, the channels that are new, LongTensor.
    """
    groups, _ = eligible(inputs, residual=config.include_residual)
    dead, _ = dead_channels_of(inputs.graph, inputs.tensors, groups)
    # In a layer of another width nothing is dead any more, though a new scale may be a hundred times an old one.
    fixed = changeable(inputs, groups)[1] if dead else {}
    in_place = {group: channels for group, channels in dead.items() if group in fixed}
    made = _started_anew(inputs, config, groups, {**added, **in_place}, [])
    return replace(made, figures=_figures(in_place, groups))


def _aim(config: NeuralRejuvenationConfig) -> Aim:
    return Aim(config.target, config.resource, config.round_to)


def _started_anew(
    inputs: Inputs,
    config: NeuralRejuvenationConfig,
    groups: list[ChannelGroup],
    new: Mapping[ChannelGroup, Tensor],
    skipped: list[str],
) -> Plan:
    """Return the plan by which some channels start anew in their places."""
    generator = torch.Generator().manual_seed(inputs.seed)
    edits: list[Edit] = []
    if config.rescale:
        rescaled, short = rescaling(inputs, groups, new, config.initial)
        edits += rescaled
        skipped += short
    for group, channels in new.items():
        edits.append(Reinitialize(group, channels, "keep", int(torch.randint(2**31, (1,), generator=generator))))
    edits += _initial_scales(new, inputs, config.initial)
    edits += cross_entries(inputs, new, removed=config.cross == "remove")
    if config.cross == "attend" and inputs.last:
        attending, left = attentions(inputs, new)
        edits += attending
        skipped += left if attending or left else [NO_ATTENTION]
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), _figures(new, groups), tuple(skipped))


def _nothing_dead(channels: int, skipped: list[str], config: NeuralRejuvenationConfig) -> LayerError:
    """Return what says that there is nothing to do."""
    if config.sparsify:
        remedy = "With sparsify channels die during the fine-tuning, so no plan is made before: run the method."
    else:
        remedy = "Let some die first: --set sparsify=EPOCHS penalizes the scales for so many epochs of fine-tuning."
    return LayerError(
        f"No channel can start anew: of the {channels} that take part none is dead beside living ones, with a "
        f"BatchNorm scale below one hundredth of its layer's largest. {' '.join(skipped[:3])}".rstrip(),
        remedy,
    )


def _figures(new: Mapping[ChannelGroup, Tensor], groups: list[ChannelGroup]) -> dict[str, dict[str, int]]:
    """Return by name how many channels start anew; the groups of a grouped convolution have one name together."""
    figures: dict[str, dict[str, int]] = {}
    names = {group.name for group in new}
    for group in groups:
        if group.name in names:
            row = figures.setdefault(group.name, {"rejuvenated": 0, "channels": 0})
            row["rejuvenated"] += len(new.get(group, ()))
            row["channels"] += group.size
    return figures


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


def sparsification(inputs: Inputs, config: NeuralRejuvenationConfig) -> Sparsification | None:
    """Return how channels are made to die before, or None where they are not.

    Raises:
        LayerError: no channels take part.
    """
    if not config.sparsify:
        return None
    groups, _ = eligible(inputs, residual=config.include_residual)
    return Sparsification(
        scales=scales_of(groups),
        dead=lambda tensors: dead_channels_of(inputs.graph, tensors, groups)[0],
        in_use=_utilization(inputs, config, groups),
        epochs=config.sparsify,
        rounds=config.n,
        target=config.target,
        below=config.below,
        allowed=config.resource,
        fall=config.delta_r,
        step=config.delta_lambda,
    )


def _utilization(
    inputs: Inputs, config: NeuralRejuvenationConfig, groups: list[ChannelGroup]
) -> Callable[[Mapping[str, Tensor], Mapping[ChannelGroup, Tensor]], float]:
    """Return what measures which share of the network its living channels need.

    Where widths change it is the share that a reallocation would need, so that it is no promise that cannot be kept.
    """
    if not config.in_place:
        return lambda tensors, dead: needed(inputs, changeable(inputs, groups)[0], dead, _aim(config))
    place = config.target == "flops"
    return lambda tensors, dead: shares_in_use(inputs.graph, tensors, dead)[place]


def told(plan: Plan) -> str:
    """Return what a plan makes of the network, where it is another one then."""
    words = []
    costs = plan.figures.get(ALLOCATION)
    if costs is not None:
        counted = "parameters" if costs["target"] == "params" else "FLOPs"
        words.append(f"It has {costs['after']:,} {counted} of {costs['found']:,} at first.")
    attending = sum(isinstance(edit, Attend) for edit in plan.edits)
    if attending:
        words.append(f"Of its convolutions {attending} have cross-attention.")
    return " ".join(words)


def check(inputs: Inputs, config: NeuralRejuvenationConfig) -> None:
    """Refuse a selection none of whose channels could ever be rejuvenated, or reallocated where that is asked for."""
    groups, _ = eligible(inputs, residual=config.include_residual)
    if not config.in_place:
        free_families(inputs, groups)


NEURAL_REJUVENATION = Method(
    name=NAME,
    paper="Qiao, Lin, Zhang, Yuille: Neural Rejuvenation: Improving Deep Network Training by Enhancing Computational"
    " Resource Utilization, CVPR 2019",
    summary="Let dead channels start anew, in their places or where they are of more use, after a phase that lets the"
    " unneeded ones die if wanted.",
    config=NeuralRejuvenationConfig,
    make_plan=make_plan,
    sparsification=sparsification,
    holds=lambda config: config.cross == "remove",
    check=check,
    told=told,
    restructures=lambda config: not config.in_place or config.cross == "attend",
    resized=resized,
)
