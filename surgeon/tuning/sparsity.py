"""An L1 penalty on some parameters, such as BatchNorm scales, whose coefficient may change between epochs."""

from collections.abc import Collection

import torch
from torch import nn

from surgeon.processes.division import local


class Sparsity:
    """The penalty `λ Σ|γ|` of a training loss, added as its gradient `λ sign(γ)` before every update.

    So it works with any loss and any number of processes, and counts once where an update takes several batches. What
    is printed as the training loss is without it.

    Attributes:
        coefficient: λ, at least 0.

    Args:
        names: of the parameters.

    Source: Qiao et al., Neural Rejuvenation, eq. 3.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self.coefficient = 0.0
        self._names = frozenset(names)

    @torch.no_grad()
    def before_update(self, module: nn.Module, scale: float = 1.0) -> None:
        """Add the penalty's gradient.

        Args:
            module: what is trained, which may be divided among processes.
            scale: what the gradients are multiplied with, in mixed precision.
        """
        if not self.coefficient:
            return
        for name, parameter in module.named_parameters():
            if name in self._names and parameter.grad is not None:
                local(parameter.grad).add_(local(parameter).sign(), alpha=self.coefficient * scale)
