"""What an optimizer remembers, put together where its parameters are divided among processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgeon.processes.division import axis_of, part_of, whole


def moments(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state dict of an optimizer with whole tensors.

    Its entry "axes" tells which of them were divided, and how. All processes call this together.
    """
    saved = optimizer.state_dict()
    state, axes = {}, {}
    for place, memory in saved["state"].items():
        state[place] = {name: whole(value) if isinstance(value, Tensor) else value for name, value in memory.items()}
        found = {name: axis_of(value) for name, value in memory.items() if isinstance(value, Tensor)}
        divided = {name: axis for name, axis in found.items() if axis is not None}
        if divided:
            axes[place] = divided
    return {**saved, "state": state, "axes": axes}


def restore_moments(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load what `moments` returned for an optimizer of the same parameters, divided in whatever way."""
    parameters = _parameters(optimizer)
    state = {
        place: {
            name: _as_divided(value, parameters[place], saved["axes"].get(place, {}).get(name))
            if isinstance(value, Tensor)
            else value
            for name, value in memory.items()
        }
        for place, memory in saved["state"].items()
    }
    optimizer.load_state_dict({**{name: value for name, value in saved.items() if name != "axes"}, "state": state})
    inner = _inner(optimizer)
    for place, memory in state.items():
        own = inner.state[parameters[place]]
        for name, value in memory.items():
            # Loading gives many of the tensors the dtype of the weights.
            if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)


@contextmanager
def whole_optimizer(optimizer: Optimizer, module: nn.Module, network: nn.Module) -> Iterator[Optimizer]:
    """Give an optimizer that remembers of a whole network what another remembers of its divided copy.

    What is changed in its memory is changed in the other's on leaving. All processes call this together.

    Args:
        optimizer: of the copy.
        module: the copy, or the network itself, with which the optimizer is given as it is.
        network: the whole network.
    """
    if module is network:
        yield optimizer
        return
    inner = _inner(optimizer)
    of: dict[Any, nn.Parameter] = dict(zip(module.parameters(), network.parameters(), strict=True))
    groups = [{**group, "params": [of[part] for part in group["params"]]} for group in inner.param_groups]
    stand_in = Optimizer(groups, {})
    for part, memory in inner.state.items():
        stand_in.state[of[part]] = {
            name: whole(value) if isinstance(value, Tensor) else value for name, value in memory.items()
        }
    yield stand_in
    with torch.no_grad():
        for part, memory in inner.state.items():
            for name, value in memory.items():
                axis = axis_of(value) if isinstance(value, Tensor) else None
                if axis is not None:
                    value.copy_(part_of(stand_in.state[of[part]][name], value, axis))


def _as_divided(value: Tensor, parameter: nn.Parameter, axis: int | None) -> Tensor:
    """Return what is remembered of a parameter, divided as that is.

    Args:
        value: the whole of it.
        parameter: divided or not.
        axis: that it was divided along when it was kept, see `axis_of`; None where it was not.
    """
    own = axis_of(parameter)
    if own is None:
        return value
    if axis is None and value.shape == parameter.shape:
        # It was kept by a run that divided nothing: a number for every weight lies where that weight does.
        axis = own
    elif axis is None and value.dim():
        # Neither a number for every weight nor one for all of them: only its optimizer knows how that is divided.
        raise ValueError("what the optimizer remembers was not divided, and cannot be")
    return part_of(value, parameter, axis)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in _inner(optimizer).param_groups for parameter in group["params"]]


def _inner(optimizer: Optimizer) -> Optimizer:
    # timm's Lookahead keeps all state in the optimizer that it wraps.
    inner: Optimizer = getattr(optimizer, "_base_optimizer", optimizer)
    return inner
