"""`kernel-reactivation`: weak kernels are made as strong as the best of their filter (Lee, Kim).

A filter is invalid when it is among the weakest of the network and among the weakest of its layer. Its weakest kernels
are scaled up, which keeps the ratios of their weights and so what they detect. What the paper leaves open:

- Every share is rounded down to a whole number of filters or kernels. A filter with fewer than 1/γ kernels keeps all
  of them: with γ=0.1 those that read an image's three colours, and depthwise ones.
- 1×1 kernels are not scaled, but filters made of them take part in both rankings, which the paper makes over "all
  filters in the model" and "each convolutional layer". Linear layers take no part.
- A kernel of zeros has no ratios to keep. It uses up its place among the weakest, and is left alone and counted.
- γ falls with the share of the fine-tuning that is over; without fine-tuning, γ is the option's value.
"""

import math
from dataclasses import dataclass
from typing import Any

from surgeon.edit.plan import Edit, Plan, Set
from surgeon.measure.invalid import invalid_kernels
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.invalid_layers import InvalidLayer, invalid_layers
from surgeon.methods.ranges import check_every, check_share

NAME = "kernel-reactivation"


@dataclass(frozen=True)
class KernelReactivationConfig:
    """The options of `kernel-reactivation`; ranges are checked when the config is made."""

    alpha: float = option(
        0.2,
        "share of the network's filters, by mean magnitude, that may be invalid, in (0, 1)",
        paper="0.2 or 0.1",
    )
    beta: float = option(0.3, "share of each layer's filters, by L1 norm, that may be invalid, in (0, 1)", paper=0.3)
    gamma: float = option(
        0.1,
        "share of an invalid filter's kernels that are scaled, in (0, 1); falls to 0 over the fine-tuning",
        paper="0.1 or 0.05",
    )
    every: int | None = option(None, "repeat the operation every so many epochs of fine-tuning", paper=10)

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            check_share(NAME, name, getattr(self, name))
        check_every(NAME, self.every)


def annealed(gamma: float, progress: float) -> float:
    """Return the share of invalid kernels at some time of the fine-tuning.

    Args:
        gamma: the share at the start.
        progress: the share of the fine-tuning that is over, 0 … 1.

    Returns:
        `γ₀ · (1 + cos(π · progress)) / 2`.

    Source: Lee, Kim: Versatile kernel reactivation, condition 3.
    """
    return gamma * (1 + math.cos(math.pi * progress)) / 2


def make_plan(inputs: Inputs, config: KernelReactivationConfig) -> Plan:
    """Return the edits that scale the invalid kernels of every convolution in the targets."""
    layers, skipped = invalid_layers(inputs, config.alpha, config.beta)
    gamma = annealed(config.gamma, inputs.progress)
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    too_few: list[str] = []
    single = [layer.name for layer in layers if layer.weights_of_a_kernel == 1]
    for layer in layers:
        if layer.name in single:
            continue
        edit, counts = reactivate(layer, gamma)
        zeros = counts["zero_kernels"]
        if edit is not None:
            edits.append(edit)
        elif not zeros:
            too_few.append(layer.name)
            continue
        if zeros:
            skipped.append(f"{layer.name}: {zeros} of the invalid kernels stay, being all zero without ratios to keep.")
        figures[layer.name] = counts
    skipped += _listed("a kernel of one weight has no ratios to keep", single)
    skipped += _listed(f"the share {gamma:.3g} of an invalid filter's kernels is less than one kernel", too_few)
    return Plan(NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def _listed(reason: str, names: list[str]) -> list[str]:
    """Return a sentence on the layers that are left alone for this reason, if there are any."""
    return [f"Left alone, because {reason}: {', '.join(names)}."] if names else []


def reactivate(layer: InvalidLayer, gamma: float) -> tuple[Set | None, dict[str, int]]:
    """Return the edit that scales a layer's invalid kernels to the L1 norm of the best kernel of their filter.

    Args:
        layer: a convolution with kernels of several weights.
        gamma: share of an invalid filter's kernels that are invalid.

    Returns:
        The edit, None if there is no such kernel or none that is not all zero; and how many filters there are, invalid
        ones among them, and how many invalid kernels are scaled, and all zero.

    Source: Lee, Kim: Versatile kernel reactivation, eq. 2.
    """
    kernels, norms = invalid_kernels(layer.weight, layer.filters, layer.invalid, gamma)
    own = norms.gather(1, kernels)
    alive = own > 0
    counts = {
        "filters": len(layer.invalid),
        "invalid_filters": len(kernels),
        "reactivated_kernels": int(alive.sum()),
        "zero_kernels": int((~alive).sum()),
    }
    if not counts["reactivated_kernels"]:
        return None, counts
    filters, numbers = layer.numbers[:, None].expand_as(kernels)[alive], kernels[alive]
    ratios = (norms.amax(1, keepdim=True) / own)[alive]
    weights = layer.weight.movedim(layer.filters, 0)[filters, numbers].flatten(1).double().mul_(ratios[:, None])
    blocks = layer.kernels(filters, numbers)
    return layer.edit(blocks, weights.flatten(), "weak kernels scaled", layer.weights_of_a_kernel), counts


KERNEL_REACTIVATION = Method(
    name=NAME,
    paper="Lee, Kim: Versatile kernel reactivation for deep convolutional neural networks, Electronics Letters 2022",
    summary="Scale the weakest kernels of the weakest filters up to the best kernel of the same filter.",
    config=KernelReactivationConfig,
    make_plan=make_plan,
)
