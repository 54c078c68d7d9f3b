"""The optimizer, and what becomes of its memory when weights are edited."""

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


def _state_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    inner = getattr(optimizer, "optimizer", optimizer)
    # timm's Lookahead keeps all state in the optimizer that it wraps.
    inner = getattr(inner, "_base_optimizer", inner)
    state: dict[str, Any] = inner.state.get(parameter, {})
    return state
