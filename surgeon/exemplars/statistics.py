"""What the BatchNorm layers are given during a forward pass, held against what they remember of the training images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from surgeon.exemplars.priors import statistics_distance

FIRST_LAYER_WEIGHT = 10
"""The first layer sees the images themselves and counts more, as in the authors' published code."""


class StatisticsTerm:
    """The sum of the distances of all layers that ran in the last forward pass."""

    def __init__(self) -> None:
        self._distances: list[Tensor] = []

    def take(self) -> Tensor | None:
        """Return the sum since the last call, a scalar that has a gradient; None where no layer ran."""
        if not self._distances:
            return None
        first, *others = self._distances
        self._distances = []
        return torch.stack([FIRST_LAYER_WEIGHT * first, *others]).sum()

    def add(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Add the distance of one layer; a forward pre-hook."""
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self._distances.append(statistics_distance(inputs[0], layer.running_mean, layer.running_var))


@contextmanager
def statistics_term(model: nn.Module) -> Iterator[StatisticsTerm]:
    """Watch the BatchNorm layers that have running statistics while the context lasts.

    Args:
        model: any network; one without such layers gives no term.
    """
    term = StatisticsTerm()
    layers = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    handles = [layer.register_forward_pre_hook(term.add) for layer in layers]
    try:
        yield term
    finally:
        for handle in handles:
            handle.remove()
