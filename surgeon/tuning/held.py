"""Entries of the weights that are held at zero while the rest of the network is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from surgeon.processes.division import axis_of, local, part_of


class Held:
    """What is held, which may change between epochs, and what the network is called meanwhile.

    An entry that is held has no gradient, neither for the norm that gradients are clipped to nor for the optimizer, and
    is zero after every update, whatever the optimizer does by itself (weight decay, averages of its own).

    Attributes:
        phase: what is trained, in a word or two; None where a fine-tuning has no phases.
        passing: what is held comes back later, so that a network without it is a step on the way and no result.
        provisional: the network as it is trained now is no result either, whatever is held.
    """

    def __init__(self, *, passing: bool = False) -> None:
        self.phase: str | None = None
        self.passing = passing
        self.provisional = False
        self._masks: dict[str, Tensor] = {}
        self._of: nn.Module | None = None
        self._parts: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """By parameter name, bool of the parameter's shape on the CPU, true where it is held."""
        return self._masks

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these entries, which are zero already, and no others.

        Args:
            masks: see `masks`.
        """
        self._masks = {name: mask for name, mask in masks.items() if bool(mask.any())}
        self._of = None

    def release(self) -> None:
        """Hold nothing any more."""
        self.hold({})

    @torch.no_grad()
    def before_update(self, module: nn.Module) -> None:
        """Take the held entries out of the gradients.

        Args:
            module: what is trained, which may be divided among processes.

        Raises:
            KeyError: it has no parameter of a name that is held.
            ValueError: a parameter has another shape.
        """
        for parameter, mask in self._placed(module):
            if parameter.grad is not None:
                local(parameter.grad).masked_fill_(mask, 0)

    @torch.no_grad()
    def after_update(self, module: nn.Module) -> None:
        """Put the held entries back to zero; see `before_update`."""
        for parameter, mask in self._placed(module):
            local(parameter).masked_fill_(mask, 0)

    def _placed(self, module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return each parameter of which something is held, with this process's part of the mask on its device."""
        if not self._masks or module is self._of:
            return self._parts if self._masks else []
        parameters = dict(module.named_parameters(remove_duplicate=False))
        self._parts = [(parameters[name], _part(mask, parameters[name])) for name, mask in self._masks.items()]
        self._of = module
        return self._parts


def _part(mask: Tensor, parameter: nn.Parameter) -> Tensor:
    if mask.shape != parameter.shape:
        raise ValueError(f"a mask of {tuple(mask.shape)} holds nothing of a parameter of {tuple(parameter.shape)}")
    return local(part_of(mask, parameter, axis_of(parameter))).to(local(parameter).device)
