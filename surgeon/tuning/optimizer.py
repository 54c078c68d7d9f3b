"""The optimizer, and what becomes of its memory when weights are edited."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn
from torch.optim import Optimizer

from surgeon.errors import OptionError
from surgeon.tuning.config import TuningConfig

# Lookahead's slow weights and MADGRAD's starting point: copies of the weights, which zero would pull towards zero.
COPIES_OF_WEIGHTS = frozenset({"lookahead_slow_buff", "x0"})


def create_optimizer(model: nn.Module, config: TuningConfig) -> Optimizer:
    """Make timm's optimizer for the parameters that are trained, with no weight decay on biases and normalization.

    With `layer_decay`, a group's learning rate is the option's times its `lr_scale`, as `create_schedule` sets it.

    Args:
        model: the network; parameters without `requires_grad` are left out.
        config: `opt`, `lr`, `momentum`, `weight_decay` and `layer_decay` are read.

    Raises:
        OptionError: timm has no such optimizer, it lacks a package or device, there is no parameter to train, or the
            network does not tell the order of its layers.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError(
            "Every parameter of the network is frozen, so there is nothing to fine-tune.",
            "Freeze fewer layers, or do not fine-tune.",
        )
    if config.layer_decay is not None and not hasattr(model, "group_matcher"):
        raise OptionError(
            "The learning rate cannot decay from layer to layer: the network does not tell the order of its layers.",
            "Leave the layer-wise decay out; timm's networks have such an order (group_matcher).",
        )
    try:
        return create_optimizer_v2(
            model,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
        )
    except (ValueError, ImportError, AssertionError) as error:
        known = [str(name) for name in list_optimizers()]
        names = get_close_matches(config.opt, known) or ["sgd", "momentum", "adamw", "lamb"]
        raise OptionError(
            f"The optimizer {config.opt!r} cannot be made: {error}.", f"Choose another, such as {', '.join(names)}."
        ) from error


@torch.no_grad()
def clear_moments(optimizer: Optimizer, parameter: nn.Parameter, index: Any = ...) -> None:
    """Forget what the optimizer remembers of the edited entries of a parameter, and keep the rest.

    Momentum and moments become zero; copies of the weights (Lookahead, MADGRAD) become the edited weights. What several
    entries share (step counts, the factors of Adafactor, a norm a layer) is left as it is.

    Args:
        optimizer: the optimizer, before or after its first step.
        parameter: one of its parameters, already edited; one that it does not know is passed over.
        index: the edited entries, as in `parameter[index]`, e.g. rows, `(slice(None), columns)`, or a mask.
    """
    for key, remembered in _state_of(optimizer, parameter).items():
        if isinstance(remembered, Tensor) and remembered.shape == parameter.shape:
            remembered[index] = parameter[index].to(remembered) if key in COPIES_OF_WEIGHTS else 0


@torch.no_grad()
def carry_moments(
    optimizer: Optimizer, parameter: nn.Parameter, before: torch.Size, carried: Callable[[Tensor], Tensor]
) -> None:
    """Give what the optimizer remembers of a parameter the shape that the parameter has now.

    What is new is remembered as `clear_moments` leaves it. Where the optimizer remembers anything of another shape
    (factors of a moment, a norm a row), all that it remembers of the parameter is forgotten.

    Args:
        optimizer: the optimizer, before or after its first step.
        parameter: one of its parameters, which has its new shape; one that it does not know is passed over.
        before: the shape that it had.
        carried: brings a tensor of that shape into the new one, with zeros where something is new.
    """
    memory = _state_of(optimizer, parameter)
    if not all(_fits(value, before) for value in memory.values()):
        memory.clear()
    new = carried(torch.ones(before, device=parameter.device)) == 0
    for key, remembered in memory.items():
        if isinstance(remembered, Tensor) and remembered.shape == before:
            memory[key] = carried(remembered)
            if key in COPIES_OF_WEIGHTS:
                memory[key][new] = parameter[new].to(remembered)
    # AdaHessian keeps its curvature as an attribute of the parameter.
    beside = vars(parameter)
    for key, remembered in beside.items():
        if isinstance(remembered, Tensor) and remembered.shape == before:
            beside[key] = carried(remembered)


def _fits(value: Any, shape: torch.Size) -> bool:
    """Return whether something remembered has a parameter's shape, or is one number for all of it."""
    if isinstance(value, Tensor):
        return value.shape == shape or value.numel() == 1
    return value is None or isinstance(value, (bool, int, float, str))


def _state_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    inner = getattr(optimizer, "optimizer", optimizer)
    # timm's Lookahead keeps all state in the optimizer that it wraps.
    inner = getattr(inner, "_base_optimizer", inner)
    state: dict[str, Any] = inner.state.get(parameter, {})
    return state
