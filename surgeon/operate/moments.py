"""The optimizer's memory of what a plan has edited."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from surgeon.edit.plan import Change, Plan
from surgeon.tuning import clear_moments


def forget(optimizer: Optimizer, model: nn.Module, made: Plan) -> None:
    """Zero the optimizer's memory of every entry that a plan has edited."""
    parameters = dict(model.named_parameters())
    for change in made.changes():
        parameter = parameters.get(change.tensor)
        if parameter is not None:
            clear_moments(optimizer, parameter, _index(change, parameter))


def _index(change: Change, parameter: torch.Tensor) -> Any:
    """Return the index of the entries that a change concerns."""
    if change.part is not None:
        return torch.unravel_index(change.part.entries.to(parameter.device), parameter.shape)
    positions = change.positions.to(parameter.device)
    if change.dim == 0:
        return positions
    rows = change.rows if change.rows is not None else slice(None)
    return (rows, *[slice(None)] * (change.dim - 1), positions)
