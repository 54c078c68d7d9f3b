"""A measurement leaves the network in the modes it found it in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back, on leaving, into the training or evaluation mode that it had on entering."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
