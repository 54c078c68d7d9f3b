"""How the weights of convolutions lie in memory while a network is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from surgeon.errors import OptionError
from surgeon.tuning.config import Switch
from surgeon.tuning.sharding import sharded

IMAGE_AXES = 4


def uses_channels_last(setting: Switch, device: torch.device) -> bool:
    """Return whether channels come last: as it is asked for, and "auto" on GPUs, whose convolutions are faster so.

    Raises:
        OptionError: it is asked for, and the network is divided among processes, which want its tensors contiguous.
    """
    if sharded(device):
        if setting == "yes":
            raise OptionError("With FSDP, weights cannot lie channels-last.", "Leave --channels-last out.")
        return False
    return setting == "yes" or (setting == "auto" and device.type in ("cuda", "xpu"))


@contextmanager
def channels_last(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Lay out convolutions' weights channels-last while the context lasts; what they return is laid out so as well.

    Args:
        model: the network; its values stay what they are, and its parameters the same objects.
        wanted: without it nothing is done.
    """
    if wanted:
        _lay_out(model, torch.channels_last)
    try:
        yield
    finally:
        if wanted:
            _lay_out(model, torch.contiguous_format)


@contextmanager
def channels_first(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Do the opposite, so that an edit finds the weights as they usually lie."""
    if wanted:
        _lay_out(model, torch.contiguous_format)
    try:
        yield
    finally:
        if wanted:
            _lay_out(model, torch.channels_last)


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    # Not nn.Module.to, which cannot do this to a network that has weights of five axes too.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == IMAGE_AXES:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
