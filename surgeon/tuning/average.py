"""A moving average of the weights while they are trained."""

import torch
from timm.utils import ModelEmaV3
from torch import nn

from surgeon.tuning.sharding import shard, sharded


class Average:
    """The exponential moving average of a network's weights and statistics, timm's ModelEmaV3.

    After update `n`, from 1, it becomes `d · average + (1 - d) · weights` with `d = min(decay, 1 - n^(-2/3))`: the
    first update is copied, and early weights are soon forgotten.

    Args:
        model: the whole network; the average starts as a copy of it, on its device.
        decay: d in the long run, in [0, 1).
        device: where the network is trained, if that may be a divided copy of it: the average is then divided too.
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | None = None) -> None:
        self.updates = 0
        """Updates since the start, on which the decay depends."""
        divided = device is not None and sharded(device)
        # Divided parameters and whole buffers cannot be averaged in one call.
        self._average = ModelEmaV3(model, decay=decay, use_warmup=True, foreach=not divided)
        if device is not None and divided:
            shard(self._average.module, device)

    @property
    def module(self) -> nn.Module:
        """The network with the averaged weights, in evaluation mode."""
        module: nn.Module = self._average.module
        return module

    @property
    def generators(self) -> list[torch.Generator]:
        """What timm rounds averages of bf16 weights by, at random; older versions have none."""
        return [value for value in vars(self._average).values() if isinstance(value, torch.Generator)]

    def update(self, model: nn.Module) -> None:
        """Take the network's weights in, after an update of them."""
        self.updates += 1
        self._average.update(model, step=self.updates)

    def restart(self, model: nn.Module) -> None:
        """Begin anew from the network as it is: an average over different channels would be of no use."""
        self.updates = 0
        self._average.set(model)
