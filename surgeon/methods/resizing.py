"""The edit that drops dead channels and gives what they cost to the layers that have most use for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.families import families
from surgeon.edit.plan import Resize, Width
from surgeon.errors import LayerError
from surgeon.methods.base import Inputs
from surgeon.methods.reallocation import Allocation, allocate, least_widths

ALLOCATION = "reallocation"
"""Where the figures have what concerns the network as a whole."""


@dataclass(frozen=True)
class Aim:
    """What the widths are chosen for.

    Attributes:
        target: what is counted, parameters or FLOPs.
        resource: the share of what the network that the run found costs, in (0, 1].
        round_to: widths are multiples of it.
    """

    target: Literal["params", "flops"]
    resource: float
    round_to: int


def changeable(
    inputs: Inputs, groups: Sequence[ChannelGroup]
) -> tuple[list[tuple[ChannelGroup, ...]], dict[ChannelGroup, str]]:
    """Divide groups into families that can have other sizes, and groups that cannot, each with the reason, a sentence.

    Args:
        inputs: what the method is given.
        groups: those that take part.
    """
    assert inputs.resizing is not None
    fixed = dict(inputs.resizing.fixed(groups))
    return families(inputs.graph, [group for group in groups if group not in fixed]), fixed


def free_families(inputs: Inputs, groups: Sequence[ChannelGroup]) -> tuple[list[tuple[ChannelGroup, ...]], list[str]]:
    """Return the families that can have other sizes, and a sentence for every group that cannot.

    Args:
        inputs: what the method is given.
        groups: those that take part.

    Raises:
        LayerError: there is no such family.
    """
    free, fixed = changeable(inputs, groups)
    words = "its width stays, and dead channels start anew in it."
    sentences = list(dict.fromkeys(f"{group.name}: {words} {why}" for group, why in fixed.items()))
    if not free:
        raise LayerError(
            f"No layer can have another width: {' '.join(sentences[:3])}",
            "Rejuvenate channels in their places: leave in_place=false out.",
        )
    return free, sentences


def needed(
    inputs: Inputs, free: Sequence[tuple[ChannelGroup, ...]], dead: Mapping[ChannelGroup, Tensor], aim: Aim
) -> float:
    """Return what the network would cost at the least, as a share of what it cost when the run found it.

    Dead channels count where they cannot be dropped: in layers whose width stays, beside more living ones of another
    conv group, or for a width that is a multiple.

    Args:
        inputs: what the method is given.
        free: the families that can have other sizes.
        dead: by group, the dead channels, LongTensor; of other groups they stay.
        aim: what the widths are chosen for.
    """
    assert inputs.resizing is not None
    cost, place = inputs.resizing.cost, aim.target == "flops"
    least = cost(least_widths(free, _living(free, dead), aim.round_to))[place]
    return min(least, cost({})[place]) / inputs.resizing.found[place]


def reallocated(
    inputs: Inputs,
    free: Sequence[tuple[ChannelGroup, ...]],
    dead: Mapping[ChannelGroup, Tensor],
    aim: Aim,
    seed: int,
    *,
    strict: bool = True,
) -> tuple[Resize | None, dict[str, dict[str, Any]]]:
    """Return the edit that makes every layer as wide as it is to be, or None where all are already; and its figures.

    Args:
        inputs: what the method is given.
        free: the families that can have other sizes.
        dead: by group, the dead channels, LongTensor; of other groups they stay.
        aim: what the widths are chosen for.
        seed: of the new channels' weights.
        strict: what lives may not cost more than is allowed; otherwise nothing is added to it then.

    Raises:
        LayerError: what lives costs more than is allowed.
    """
    assert inputs.resizing is not None
    cost, place = inputs.resizing.cost, aim.target == "flops"
    # As it is written: 0.7 of 340 are 238, and a hair less as a binary fraction.
    budget = int(Fraction(str(aim.resource)) * inputs.resizing.found[place])
    living = _living(free, dead)
    try:
        found = allocate(free, living, lambda sizes: cost(sizes)[place], budget, aim.round_to)
    except LayerError as error:
        if strict:
            counted = "parameters" if aim.target == "params" else "FLOPs"
            raise LayerError(
                f"The {counted} of the network cannot come down to {aim.resource:g} of what they were. {error.problem}",
                error.remedy,
            ) from error
        least = least_widths(free, living, aim.round_to)
        if cost(least)[place] >= cost({})[place]:
            # Nothing can be dropped, or multiples would cost more than that saves.
            return None, {}
        found = Allocation(least, 1.0, cost(least)[place])
    widths = []
    for group, size in found.widths.items():
        keep = torch.ones(group.size, dtype=torch.bool).index_fill_(0, dead.get(group, torch.arange(0)), False)
        width = Width(group, keep.nonzero().flatten(), size - living[group])
        if width.add or len(width.keep) < group.size:
            widths.append(width)
    costs = {"found": inputs.resizing.found[place], "before": cost({})[place], "after": found.cost, "budget": budget}
    figures = {ALLOCATION: {"target": aim.target, "rate": round(found.rate, 6), **costs}, **_rows(widths)}
    return (Resize(tuple(widths), seed) if widths else None), figures


def _living(free: Sequence[tuple[ChannelGroup, ...]], dead: Mapping[ChannelGroup, Tensor]) -> dict[ChannelGroup, int]:
    """Return by group how many of its channels live."""
    return {group: group.size - len(dead.get(group, ())) for family in free for group in family}


def _rows(widths: Sequence[Width]) -> dict[str, dict[str, Any]]:
    """Return by name what changes; the groups of a grouped convolution have one name together."""
    rows: dict[str, dict[str, Any]] = {}
    for width in widths:
        row = rows.setdefault(width.group.name, {"channels": 0, "dropped": 0, "rejuvenated": 0, "width": 0})
        row["channels"] += width.group.size
        row["dropped"] += width.group.size - len(width.keep)
        row["rejuvenated"] += width.add
        row["width"] += len(width.keep) + width.add
    return rows
