"""An L1 penalty on some parameters, such as BatchNorm scales, whose coefficient may change between epochs."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from surgeon.processes.division import local


class Sparsity:
    """The penalty `λ Σ|γ|` of a training loss, added as its gradient before every update.

    So it works with any loss and any number of processes, and counts once where an update takes several batches. What
    is printed as the training loss is without it.

    Plain steps along `λ sign(γ)` would carry a scale to and fro across zero by the learning rate times λ, and whether
    it is then below a hundredth of the largest would be chance. So a scale that an update would carry across zero stops
    there, and it stays at zero as long as the gradient of the loss itself is no larger than λ: the smallest
    subgradient of the penalized loss is zero then.

    Attributes:
        coefficient: λ, at least 0.
        names: of the parameters.

    Args:
        names: of the parameters.

    Source: Qiao et al., Neural Rejuvenation, eq. 3; the stop at zero is ours.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self.coefficient = 0.0
        self.names = frozenset(names)
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    @torch.no_grad()
    def before_update(self, module: nn.Module, scale: float = 1.0) -> None:
        """Add the penalty's gradient.

        Args:
            module: what is trained, which may be divided among processes.
            scale: what the gradients are multiplied with, in mixed precision.
        """
        self._before.clear()
        if not self.coefficient:
            return
        for name, parameter in module.named_parameters():
            if name in self.names and parameter.grad is not None:
                gradient, values = local(parameter.grad), local(parameter)
                limit = self.coefficient * scale
                at_zero = values == 0
                resting = at_zero & (gradient.abs() <= limit)
                gradient.add_(torch.where(at_zero, -gradient.sign(), values.sign()), alpha=limit).masked_fill_(
                    resting, 0
                )
                self._before.append((parameter, values.clone(), resting))

    @torch.no_grad()
    def after_update(self) -> None:
        """Let the scales that the update has carried across zero, or away from it for nothing, be zero."""
        for parameter, before, resting in self._before:
            values = local(parameter)
            values.masked_fill_((before * values < 0) | resting, 0)
        self._before.clear()
