"""What edits have set, as entries that are held at zero, as what stood there before, and as a part of a run's state."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgeon.edit.plan import Plan, Set
from surgeon.tuning import clear_moments


def sets_of(plan: Plan) -> tuple[Set, ...]:
    """Return the edits of a plan that set entries."""
    return tuple(edit for edit in plan.edits if isinstance(edit, Set))


def before(edit: Set, tensors: Mapping[str, Tensor]) -> Set:
    """Return the edit that puts back what an edit is about to replace, on the CPU."""
    tensor = tensors[edit.tensor].detach()
    values = tensor.reshape(-1, edit.block_size)[edit.blocks.long().to(tensor.device)].flatten().cpu()
    return dataclasses.replace(edit, blocks=edit.blocks.cpu(), values=values, what="put back")


def masks_of(edits: Iterable[Set], model: nn.Module) -> dict[str, Tensor]:
    """Return, by parameter, bool of its shape on the CPU, true where edits set it; what is no parameter is left out."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {edit.tensor: _mask(edit, parameters[edit.tensor]) for edit in edits if edit.tensor in parameters}


def clear(optimizer: Optimizer, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero the optimizer's memory of masked entries."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        clear_moments(optimizer, parameters[name], mask.to(parameters[name].device))


def written_down(edits: Sequence[Set]) -> list[dict[str, Any]]:
    """Return edits as plain values and tensors."""
    return [{field.name: getattr(edit, field.name) for field in dataclasses.fields(edit)} for edit in edits]


def read_back(rows: Iterable[Mapping[str, Any]]) -> tuple[Set, ...]:
    """Return the edits that `written_down` has written down."""
    return tuple(Set(**row) for row in rows)


def _mask(edit: Set, parameter: Tensor) -> Tensor:
    mask = torch.zeros(parameter.numel() // edit.block_size, edit.block_size, dtype=torch.bool)
    mask[edit.blocks.long()] = True
    return mask.view(parameter.shape)
