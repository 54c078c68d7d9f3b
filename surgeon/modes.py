"""The modes of a network's modules, training or evaluation, which whoever changes them puts back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(*networks: nn.Module) -> Iterator[None]:
    """Put every module back, on leaving, into the training or evaluation mode that it had on entering.

    A module that has taken the place of another one meanwhile is put into that one's mode.
    """
    modes = [{name: module.training for name, module in network.named_modules()} for network in networks]
    try:
        yield
    finally:
        for network, kept in zip(networks, modes, strict=True):
            for name, module in network.named_modules():
                module.training = kept.get(name, module.training)
