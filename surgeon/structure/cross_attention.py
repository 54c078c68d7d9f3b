"""A convolution in which surviving and rejuvenated channels attend to each other."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from surgeon.structure.structure import CrossSets

ATTENDING = "surgeon_cross_attention"
"""What the layer's entry in the metadata of a state dict says, where torch keeps the versions of layers."""


class CrossAttentionConv2d(nn.Conv2d):
    """A convolution whose outputs of one kind (survived or rejuvenated) gate what the other kind adds to them.

    `S_out = W_SS S + 2 σ(W_SS S) · (W_RS R)`, and the mirror image for R. As long as the weights between the two kinds
    are zero, it computes what the convolution does. Its tensors have the names and shapes of the convolution's, and it
    takes as many multiplications; a bias is added last.

    Attributes:
        sets: which channels are rejuvenated.

    Source: Qiao et al., Neural Rejuvenation, eq. 9 and 10.
    """

    sets: CrossSets
    written_old: Tensor
    written_new: Tensor
    read_old: Tensor
    read_new: Tensor
    order: Tensor

    def set_sets(self, sets: CrossSets) -> None:
        """Say which channels are rejuvenated.

        Args:
            sets: of both sides some channels, but not all.
        """
        self.sets = sets
        device = self.weight.device
        for side, chosen, size in (("written", sets.written, self.out_channels), ("read", sets.read, self.in_channels)):
            new = torch.zeros(size, dtype=torch.bool).index_fill_(0, torch.tensor(chosen, dtype=torch.int64), True)
            # Not a part of the state: the convolution that this one replaces has no such tensors.
            self.register_buffer(f"{side}_new", new.nonzero().flatten().to(device), persistent=False)
            self.register_buffer(f"{side}_old", (~new).nonzero().flatten().to(device), persistent=False)
        order = torch.cat([self.written_old, self.written_new]).argsort()
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, out_channels, H', W']` of `[B, in_channels, H, W]`."""
        old, new = x.index_select(1, self.read_old), x.index_select(1, self.read_new)
        sides = [
            self._attended(old, new, self.written_old, self.read_old, self.read_new),
            self._attended(new, old, self.written_new, self.read_new, self.read_old),
        ]
        result = torch.cat(sides, 1).index_select(1, self.order)
        return result if self.bias is None else result + self.bias[:, None, None]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Names and shapes are the convolution's, which would else be all that tells the weights apart.
        described = getattr(destination, "_metadata", {})
        described.get(prefix[:-1], {})[ATTENDING] = True

    def _attended(self, own: Tensor, other: Tensor, written: Tensor, read: Tensor, others: Tensor) -> Tensor:
        """Return one kind's outputs of its own inputs and the other kind's."""
        rows = self.weight.index_select(0, written)
        within = self._conv_forward(own, rows.index_select(1, read), None)
        between = self._conv_forward(other, rows.index_select(1, others), None)
        return within + 2 * within.sigmoid() * between


def attendable(module: nn.Module) -> bool:
    """Return whether a layer can be replaced by one with cross-attention: a plain convolution over images."""
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or "forward" in vars(module) or is_parametrized(module):
        return False
    return type(module).forward in (nn.Conv2d.forward, CrossAttentionConv2d.forward)


def attend(model: nn.Module, name: str, sets: CrossSets) -> None:
    """Give a convolution of a network cross-attention, in place; the layer and its parameters stay the same objects.

    Args:
        model: the network.
        name: the convolution's name, one that is `attendable`; one that has cross-attention already gets other sets.
        sets: which channels are rejuvenated.
    """
    module = model.get_submodule(name)
    assert attendable(module)
    assert isinstance(module, nn.Conv2d)
    if not isinstance(module, CrossAttentionConv2d):
        # Not another object: a forward pass may reach the layer by other ways than by its name.
        module.__class__ = CrossAttentionConv2d
        assert isinstance(module, CrossAttentionConv2d)
    module.set_sets(sets)
