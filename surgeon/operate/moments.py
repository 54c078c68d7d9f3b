"""The optimizer's memory of what a plan has edited."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from surgeon.edit.plan import Change, Plan, Resize
from surgeon.edit.resize import carried
from surgeon.tuning import carry_moments, clear_moments


def forget(optimizer: Optimizer, model: nn.Module, made: Plan) -> None:
    """Zero the optimizer's memory of every entry that a plan has edited."""
    parameters = dict(model.named_parameters())
    for change in made.changes():
        parameter = parameters.get(change.tensor)
        if parameter is not None:
            clear_moments(optimizer, parameter, _index(change, parameter))


def carry(optimizer: Optimizer, model: nn.Module, edit: Resize, before: Mapping[str, torch.Size]) -> None:
    """Bring the optimizer's memory into the shapes that parameters have after they were resized.

    Args:
        optimizer: the optimizer.
        model: the network, which has its new widths.
        edit: by which it got them.
        before: the shapes of its parameters, as they were before.
    """
    for name, parameter in model.named_parameters():
        if name in edit.by_tensor:
            carry_moments(optimizer, parameter, before[name], partial(carried, edit, name))


def _index(change: Change, parameter: torch.Tensor) -> Any:
    """Return the index of the entries that a change concerns."""
    if change.part is not None:
        return torch.unravel_index(change.part.entries.to(parameter.device), parameter.shape)
    positions = change.positions.to(parameter.device)
    if change.dim == 0:
        return positions
    rows = change.rows if change.rows is not None else slice(None)
    return (rows, *[slice(None)] * (change.dim - 1), positions)
