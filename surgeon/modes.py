"""The modes of a network's modules, training or evaluation, which whoever changes them puts back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(*networks: nn.Module) -> Iterator[None]:
    """Put every module back, on leaving, into the training or evaluation mode that it had on entering."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
