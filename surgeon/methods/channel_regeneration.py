"""`channel-regeneration`: channel regeneration for compact networks (Sharma, Foroosh, AAAI 2023).

BatchNorm scales at or below a threshold are raised to it, so that their filters matter again. The paper compares signed
scales (algorithm 1, line 11), and so does this: a large negative scale is "below" the median and changes its sign.

The paper trains with weight decay and does not say whether scales decay. Here they do not, as no parameter of one axis
does: decay would pull the raised scales back to where they mattered little.

`preserve` is ours: the shift is scaled along and the columns that read the channel are divided, so that a pretrained
network computes what it did. A factor moved like this leaves the gradient of the filter itself as it was; what grows,
by the factor, is the gradient of the columns that read it, and with them the filter's own from the first update on.
There a scale keeps its sign and counts by its magnitude, in the threshold as well, and one factor serves everything
that writes the same stream: see `shared_factors`.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import Norm
from surgeon.edit.plan import Edit, Plan, Rescale, Set
from surgeon.errors import LayerError, OptionError
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.ranges import check_every
from surgeon.methods.shared_factors import Bounds, bounds, places, shared_factors, shortfalls, taken

NAME = "channel-regeneration"


@dataclass(frozen=True)
class ChannelRegenerationConfig:
    """The options of `channel-regeneration`; ranges are checked when the config is made."""

    threshold: Literal["median", "mean", "max"] | float = option(
        "median", "the value that weak scales get: a statistic of all scales of the selected BatchNorms, or a number",
        paper="median",
    )  # fmt: skip
    inhibited_only: float | None = option(
        None,
        "raise only scales whose magnitude is below this value; the paper calls those below 0.01 inhibited",
    )
    preserve: bool = option(
        False,
        "keep the function: scale shifts along and divide the columns that read them, wherever that is exact",
    )
    max_factor: float | None = option(
        10.0,
        "with preserve, the largest factor of one operation, and of the threshold that scales sharing it are lifted to;"
        " the gradient of the columns grows by it while they shrink, so that scales near zero, lifted all the way"
        " (none), make fine-tuning at a usual learning rate diverge",
    )
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning", paper="5 from scratch")

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("inhibited_only", self.inhibited_only)):
            if isinstance(value, (int, float)) and not 0 < value < math.inf:
                raise OptionError(f"The option {name} of {NAME} is {value}.", "Give a finite number above 0.")
        if self.max_factor is not None and not 1 < self.max_factor < math.inf:
            raise OptionError(
                f"The option max_factor of {NAME} is {self.max_factor}.", "Give a finite number above 1, or none."
            )
        check_every(NAME, self.every)


def make_plan(inputs: Inputs, config: ChannelRegenerationConfig) -> Plan:
    """Return the edits that raise the weak BatchNorm scales of the targets, or of the whole network.

    Raises:
        LayerError: there is no BatchNorm with a scale.
        OptionError: the threshold that the scales give is not above 0.
    """
    norms = [norm for norm in inputs.norms().values() if norm.weight is not None]
    scales = _scales(inputs, norms)
    counted = {key: scale.abs() for key, scale in scales.items()} if config.preserve else scales
    value = threshold(list(counted.values()), config.threshold)
    weak = {key: _weak(scale, value, config.inhibited_only) for key, scale in counted.items()}
    if config.preserve:
        selected = {key for norm in norms for key in (norm.weight, norm.bias) if key is not None}
        limits = bounds(value, counted.values(), config.max_factor)
        edits, reached, skipped = _preserving(inputs, selected, weak, limits)
    else:
        edits, skipped = _raising(weak, value), []
        reached = {"raised": sum(int(mask.sum()) for mask in weak.values())}
    figures = {
        "threshold": value,
        "scales": sum(mask.numel() for mask in weak.values()),
        "weak": sum(int(mask.sum()) for mask in weak.values()),
        **reached,
    }
    named = {"BatchNorm scales": figures}
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), named, tuple(skipped))


def _scales(inputs: Inputs, norms: Sequence[Norm]) -> dict[str, Tensor]:
    """Return the scales of BatchNorms by state-dict key, a shared one once, in double precision on the CPU."""
    if not norms:
        raise LayerError(
            "There is no BatchNorm with a scale to regenerate.",
            "Choose other layers, or a method that reads weights: kernel-reactivation, weight-evolution or reinit.",
        )
    return {norm.weight: _values(inputs.tensors[norm.weight]) for norm in norms if norm.weight is not None}


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().double().flatten().cpu()


def threshold(scales: list[Tensor], rule: str | float) -> float:
    """Return the value below which a scale is weak (algorithm 1, line 9; table 2 for the other rules).

    Args:
        scales: the scales of all layers, each `[C]`; their magnitudes where these count.
        rule: `median` (of an even number the mean of the two in the middle), `mean`, `max`, or the value itself.

    Raises:
        OptionError: the value is not a finite number above 0.
    """
    if not isinstance(rule, str):
        return float(rule)
    values = torch.cat([_values(scale) for scale in scales])
    # Not torch.median, which of an even number takes the lower of the two in the middle.
    middle = statistics.median(values.tolist())
    value = {"median": middle, "mean": float(values.mean()), "max": float(values.max())}[rule]
    if not 0 < value < math.inf:
        raise OptionError(
            f"The {rule} of the BatchNorm scales is {value:g}, which no scale can usefully be raised to.",
            "Give a threshold above 0 with --set threshold=NUMBER.",
        )
    return value


def _weak(scale: Tensor, value: float, inhibited_only: float | None) -> Tensor:
    """Return which scales are raised; those that are equal to the threshold stay as they are."""
    weak = scale < value
    return weak if inhibited_only is None else weak & (scale.abs() < inhibited_only)


def _raising(weak: Mapping[str, Tensor], value: float) -> list[Edit]:
    """Return the edits that give weak scales the value."""
    chosen = {key: torch.nonzero(mask).flatten() for key, mask in weak.items()}
    return [
        Set(key, entries, torch.full(entries.shape, value, dtype=torch.float64), "raised to the threshold")
        for key, entries in chosen.items()
        if entries.numel()
    ]


def _preserving(
    inputs: Inputs, selected: Collection[str], weak: Mapping[str, Tensor], limits: Bounds
) -> tuple[list[Edit], dict[str, float], list[str]]:
    """Return one rescaling at most, figures of it, and what is to be said of scales that fall short or move along."""
    scaling = inputs.graph.scaling
    norms = {norm.weight for norm in inputs.graph.norms.values() if norm.weight is not None}
    magnitudes = {key: _values(inputs.tensors[key]).abs() for key in sorted(norms)}
    factors = shared_factors(scaling, magnitudes, weak, limits)
    moved = {key: taken(numbers, factors) > 1 for key, numbers in places(scaling).items()}
    skipped: list[str] = []
    for key, mask in weak.items():
        skipped += shortfalls(key, magnitudes[key], mask, scaling, factors, limits)
    outside = [key for key, mask in moved.items() if bool(mask.any()) and key not in selected]
    skipped += _moved_along([key for key in outside if not inputs.includes(key)])
    lifted = {key: moved[key] & (magnitudes[key] > 0) for key in moved if key in norms}
    raised = sum(int((mask & weak[key]).sum()) for key, mask in lifted.items() if key in weak)
    figures = {
        "raised": raised,
        "largest_factor": float(factors.max()) if len(factors) else 1.0,
        "moved_along": sum(int(mask.sum()) for mask in lifted.values()) - raised,
    }
    return ([Rescale(scaling, factors)] if bool((factors != 1).any()) else []), figures, skipped


def _moved_along(keys: Sequence[str]) -> list[str]:
    """Return a sentence on the tensors outside of the selection that take factors up, if there are any."""
    if not keys:
        return []
    verbs = ("moves", "it writes") if len(keys) == 1 else ("move", "they write")
    return [f"{', '.join(keys)} {verbs[0]} along: {verbs[1]} the same channels."]


CHANNEL_REGENERATION = Method(
    name=NAME,
    paper="Sharma, Foroosh: Channel Regeneration: Improving Channel Utilization for Compact DNNs, AAAI 2023",
    summary="Raise weak BatchNorm scales to the network's median, so that their filters matter again.",
    config=ChannelRegenerationConfig,
    make_plan=make_plan,
)
