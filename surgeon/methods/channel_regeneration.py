"""`channel-regeneration`: channel regeneration for compact networks (Sharma, Foroosh, AAAI 2023).

BatchNorm scales at or below a threshold are raised to it, so that their filters matter again. The paper compares signed
scales (algorithm 1, line 11), and so does this: a large negative scale is "below" the median and changes its sign.

`preserve` is ours: the shift is scaled along and the columns that read the channel are divided, so that a pretrained
network computes what it did. A factor moved like this leaves the gradient of the filter itself as it was; what grows,
by the factor, is the gradient of the columns that read it, and with them the filter's own from the first update on.
There a scale keeps its sign and counts by its magnitude, and one factor serves everything that writes the same stream:
the smallest that lifts the weakest of its scales to the threshold, up to `max_factor`.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import Scaling
from surgeon.edit.plan import Edit, Plan, Rescale, Set
from surgeon.errors import LayerError, OptionError
from surgeon.methods.base import Inputs, Method, option

LARGEST_FACTOR = 1e6
"""Beyond it single precision could not hold the columns and the shift together."""


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
        "with preserve, the largest factor; the gradient of the columns grows by it while they shrink, so that"
        " scales near zero, lifted all the way (none), make fine-tuning at a usual learning rate diverge",
    )
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning", paper="5 from scratch")

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("inhibited_only", self.inhibited_only)):
            if isinstance(value, (int, float)) and not value > 0:
                raise OptionError(f"The option {name} of channel-regeneration is {value}.", "Give a number above 0.")
        if self.max_factor is not None and not self.max_factor > 1:
            raise OptionError(
                f"The option max_factor of channel-regeneration is {self.max_factor}.",
                "Give a number above 1, or none.",
            )
        if self.every is not None and self.every < 1:
            raise OptionError(
                f"The option every of channel-regeneration is {self.every}.", "Give a whole number of at least 1."
            )


def make_plan(inputs: Inputs, config: ChannelRegenerationConfig) -> Plan:
    """Return the edits that raise the weak BatchNorm scales of the targets, or of the whole network.

    Raises:
        LayerError: there is no BatchNorm with a scale.
        OptionError: the threshold that the scales give is not above 0.
    """
    scales = _scales(inputs)
    value = threshold([inputs.tensors[key] for key in scales.values()], config.threshold)
    weak = {key: _weak(inputs.tensors[key], value, config) for key in scales.values()}
    edits: list[Edit] = []
    skipped: list[str] = []
    if config.preserve:
        edits, skipped = _preserving(inputs, weak, value, config.max_factor)
    else:
        for key, mask in weak.items():
            places = torch.nonzero(mask).flatten()
            if places.numel():
                values = torch.full(places.shape, value, dtype=torch.float64)
                edits.append(Set(key, places, values, "raised to the threshold"))
    figures = {
        "threshold": value,
        "scales": sum(mask.numel() for mask in weak.values()),
        "weak": sum(int(mask.sum()) for mask in weak.values()),
        "raised": _raised(edits, weak),
    }
    named = {"BatchNorm scales": figures}
    return Plan("channel-regeneration", dict(vars(config)), inputs.targets, tuple(edits), named, tuple(skipped))


def _scales(inputs: Inputs) -> dict[str, str]:
    """Return the state-dict keys of the BatchNorms' scales by module name, a shared one once."""
    named = {norm.weight: name for name, norm in inputs.norms().items() if norm.weight is not None}
    if not named:
        raise LayerError(
            "There is no BatchNorm with a scale to regenerate.",
            "Choose other layers, or a method that reads weights: kernel-reactivation, weight-evolution or reinit.",
        )
    return {name: key for key, name in named.items()}


def threshold(scales: list[Tensor], rule: str | float) -> float:
    """Return the value below which a scale is weak (algorithm 1, line 9; table 2 for the other rules).

    Args:
        scales: the scales of all layers, each `[C]`.
        rule: `median` (of an even number the mean of the two in the middle), `mean`, `max`, or the value itself.

    Raises:
        OptionError: the value is not above 0.
    """
    if not isinstance(rule, str):
        return float(rule)
    values = torch.cat([scale.double().flatten().cpu() for scale in scales])
    # Not torch.median, which of an even number takes the lower of the two in the middle.
    middle = statistics.median(values.tolist())
    value = {"median": middle, "mean": float(values.mean()), "max": float(values.max())}[rule]
    if value <= 0:
        raise OptionError(
            f"The {rule} of the BatchNorm scales is {value:g}, which no scale can usefully be raised to.",
            "Give a threshold above 0 with --set threshold=NUMBER.",
        )
    return value


def _weak(scale: Tensor, value: float, config: ChannelRegenerationConfig) -> Tensor:
    """Return which scales are raised; those that are equal to the threshold stay as they are."""
    known = scale.double().cpu()
    weak = (known.abs() if config.preserve else known) < value
    return weak if config.inhibited_only is None else weak & (known.abs() < config.inhibited_only)


def _preserving(
    inputs: Inputs, weak: Mapping[str, Tensor], value: float, max_factor: float | None
) -> tuple[list[Edit], list[str]]:
    """Return one rescaling, and a sentence for every BatchNorm of which some scales do not reach the threshold."""
    scaling = inputs.graph.scaling
    most = LARGEST_FACTOR if max_factor is None else min(max_factor, LARGEST_FACTOR)
    factors = torch.ones(scaling.size, dtype=torch.float64)
    places = _places(scaling)
    skipped = []
    for key, mask in weak.items():
        numbers = places.get(key, torch.full(mask.shape, -1))
        magnitude = inputs.tensors[key].double().cpu().abs()
        bound, silent = mask & (numbers < 0), mask & (numbers >= 0) & (magnitude == 0)
        chosen = mask & ~bound & ~silent
        wanted = value / magnitude[chosen]
        factors.scatter_reduce_(0, numbers[chosen], wanted.clamp(max=most), "amax")
        skipped += _shortfalls(key, scaling, int(bound.sum()), int(silent.sum()), int((wanted > most).sum()), most)
    return ([Rescale(scaling, factors)] if bool((factors != 1).any()) else []), skipped


def _shortfalls(key: str, scaling: Scaling, bound: int, silent: int, partly: int, most: float) -> list[str]:
    """Return what is to be said of the weak scales of one BatchNorm that do not reach the threshold."""
    reason = scaling.reasons.get(key, "Nothing that reads them takes a factor up.")
    counted = [
        (bound, f"weak scales are left alone. {reason}"),
        (silent, "scales are left alone: they are zero, and no factor lifts zero."),
        (partly, f"scales are raised {most:g}-fold and stay below the threshold; max_factor says how far they may go."),
    ]
    return [f"{key}: {count} {what}" for count, what in counted if count]


def _places(scaling: Scaling) -> dict[str, Tensor]:
    """Return for every vector that writes channels the numbers of its factors."""
    return {part.tensor: part.scale for part in scaling.parts if part.dim == 0 and not part.divided}


def _raised(edits: list[Edit], weak: Mapping[str, Tensor]) -> int:
    """Return how many weak scales the edits raise."""
    count = 0
    for edit in edits:
        if isinstance(edit, Set):
            count += edit.entries.numel()
        elif isinstance(edit, Rescale):
            places = _places(edit.scaling)
            for key, mask in weak.items():
                if key in places:
                    taken = torch.where(places[key] >= 0, edit.factors[places[key]], 1.0)
                    count += int((mask & (taken > 1)).sum())
    return count


CHANNEL_REGENERATION = Method(
    name="channel-regeneration",
    paper="Sharma, Foroosh: Channel Regeneration: Improving Channel Utilization for Compact DNNs, AAAI 2023",
    summary="Raise weak BatchNorm scales to the network's median, so that their filters matter again.",
    config=ChannelRegenerationConfig,
    make_plan=make_plan,
)
