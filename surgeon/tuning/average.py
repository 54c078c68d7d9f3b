"""A moving average of the weights while they are trained."""

from timm.utils import ModelEmaV3
from torch import nn


class Average:
    """The exponential moving average of a network's weights and statistics, timm's ModelEmaV3.

    After update `n`, from 1, it becomes `d · average + (1 - d) · weights` with `d = min(decay, 1 - n^(-2/3))`: the
    first update is copied, and early weights are soon forgotten.

    Args:
        model: the network; the average starts as a copy of it, on its device.
        decay: d in the long run, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.updates = 0
        """Updates since the start, on which the decay depends."""
        self._average = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def module(self) -> nn.Module:
        """The network with the averaged weights, in evaluation mode."""
        module: nn.Module = self._average.module
        return module

    def update(self, model: nn.Module) -> None:
        """Take the network's weights in, after an update of them."""
        self.updates += 1
        self._average.update(model, step=self.updates)

    def restart(self, model: nn.Module) -> None:
        """Begin anew from the network as it is: an average over different channels would be of no use."""
        self.updates = 0
        self._average.set(model)
