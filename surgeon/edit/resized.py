"""Prove other widths on the network itself: its outputs must not show them, and it must have the groups predicted."""

import copy
from typing import Any

import torch
from torch import nn

from surgeon.coupling.example import call_arguments, random_example
from surgeon.coupling.trace import trace
from surgeon.edit.layers import changed_axes
from surgeon.edit.mix import channels_first
from surgeon.edit.plan import Resize
from surgeon.edit.resize import check_resize, resize
from surgeon.edit.runs import places_now, places_then
from surgeon.edit.verify import (
    SMALLEST_GAIN,
    TOLERANCE,
    Call,
    _distance,
    _is_unstable,
    _outputs,
    randomize,
)
from surgeon.errors import PlanError

REMEDY = "Leave these channels out: those of one layer after the other show which."


def prove_resize(model: nn.Module, edit: Resize, example: Any) -> float:
    """Resize a randomized float64 copy of a network, and compare its outputs with those without the dropped channels.

    Args:
        model: the network; it stays as it is.
        edit: the new widths.
        example: what the network is called with, as for `trace`; random numbers take the place of those in it.

    Returns:
        The relative L2 distance of the outputs: rounding.

    Raises:
        PlanError: the edit does not fit the network, the outputs differ by more than rounding, or the network recorded
            anew carries other channels together than predicted.
        TraceError: the resized network's forward pass cannot be recorded.
    """
    check_resize(model, edit)
    example = random_example(model, example)
    difference, twin = resized_difference(model, edit, example)
    if not difference < TOLERANCE:
        raise PlanError(
            f"With other widths the network computes something else: its outputs are {difference:.1e} away from those "
            "without the channels that go.",
            REMEDY,
        )
    lost = _lost(model, twin, edit, example)
    if lost is not None:
        raise PlanError(f"With other widths, the channels of '{lost}' belong together with others.", REMEDY)
    return difference


def resized_difference(model: nn.Module, edit: Resize, example: Any) -> tuple[float, nn.Module]:
    """Resize a randomized float64 copy of a network, and compare its outputs with those without the dropped channels.

    Args:
        model: the network; it stays as it is.
        edit: the new widths.
        example: what the network is called with, as for `trace`, in float64.

    Returns:
        The relative L2 distance of the outputs, and the resized network.
    """
    call = call_arguments(example)
    gain = 1.0
    difference, twin = _difference(model, edit, call, gain)
    while not difference < TOLERANCE and gain > SMALLEST_GAIN and _is_unstable(model, call, 0, gain):
        gain /= 2
        difference, twin = _difference(model, edit, call, gain)
    return difference, twin


def _difference(model: nn.Module, edit: Resize, call: Call, gain: float) -> tuple[float, nn.Module]:
    whole = copy.deepcopy(model).to("cpu", torch.float64).eval()
    randomize(whole, torch.Generator().manual_seed(0), gain)
    twin = copy.deepcopy(whole)
    resize(twin, edit)
    tensors = whole.state_dict(keep_vars=True)
    with torch.no_grad():
        for width in edit.widths:
            for member in width.group.members:
                if member.role == "consumer":
                    channels_first(tensors, member)[member.positions[width.dropped].flatten()] = 0
    return _distance(_outputs(whole, call), _outputs(twin, call)), twin


def _lost(model: nn.Module, twin: nn.Module, edit: Resize, example: Any) -> str | None:
    """Return the name of a group that the resized network does not have as predicted."""
    axes = changed_axes(edit, model.state_dict(keep_vars=True))
    found = {places_now(group) for group in trace(twin, example).groups}
    # One channel cannot change places and binds others differently; two are taken for two images by some reshapes.
    few = {member.tensor for width in edit.widths if width.size <= 2 for member in width.group.members}
    for width in edit.widths:
        clear = few.isdisjoint(member.tensor for member in width.group.members)
        if clear and places_then(width.group, axes) not in found:
            return width.group.name
    return None
