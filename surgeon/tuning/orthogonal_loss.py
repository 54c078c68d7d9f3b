"""The orthogonal loss: a training loss and, weighted, how much the filters of every convolution overlap."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import OptionError
from surgeon.processes.division import is_divided
from surgeon.tuning.config import TuningConfig

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

NEGLIGIBLE = 1e-3
"""Filters of a smaller norm, in proportion to the largest of their layer, are none.

The gradient of a direction grows as the norm falls, and pretrained networks have filters that weight decay has brought
to nearly nothing: one step along such a gradient would throw the network off.
"""


def overlap(filters: Tensor) -> Tensor:
    """Sum up how much filters overlap: `Σ |Ŵ Ŵᵀ - I|` over all entries, with Ŵ the filters normalized.

    Filters of zeros, which have no direction, and nearly zero ones (see `NEGLIGIBLE`) count as if they were not there:
    they add nothing and get a gradient of zeros.

    Args:
        filters: `[J, n]`, a filter a row, of any floating-point type; it is computed in float32 at least.

    Returns:
        A scalar, 0 … J (J - 1).

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, eq. 1.
    """
    rows = filters.to(torch.promote_types(filters.dtype, torch.float32))
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    there = norms > NEGLIGIBLE * norms.detach().amax()
    directions = torch.where(there, rows / torch.where(there, norms, 1), 0)
    cosines = directions @ directions.T
    # On the diagonal the identity takes away all that is there.
    return cosines.fill_diagonal_(0).abs().sum()


def orthogonal_loss(model: nn.Module) -> Tensor:
    """Sum `overlap` up over the convolutions of a network that are trained, linear layers left aside.

    As in the criterion `ortho`, all filters of a layer are compared, those of different groups too. A weight that
    several layers share counts once; one that is computed from other parameters does not count.

    Args:
        model: the network, also wrapped; it has at least one such convolution.

    Returns:
        A scalar in float32 at least, also within autocast.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, sections 5 and 6.
    """
    layers = _trained_filters(model)
    with torch.autocast(layers[0].device.type, enabled=False):
        return torch.stack([overlap(filters) for filters in layers]).sum()


@dataclass(frozen=True)
class WithOrthogonalLoss:
    """The loss of a batch and the orthogonal loss: `L + λ · Σ_ℓ |Ŵ_ℓ Ŵ_ℓᵀ - I|`.

    The second term is the same for every batch and in every process. So it stays what it is in a mean over several,
    also in one that weights each by its images.

    Args:
        objective: `objective(model, batch)` returns L, a scalar.
        weight: λ, above 0.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, section 6, "Orthogonal Loss".
    """

    objective: Callable[[nn.Module, Any], Tensor]
    weight: float

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Pass a batch through the network and return the loss, a scalar.

        Args:
            model: the network in training mode, also wrapped.
            batch: what the objective takes.
        """
        loss = self.objective(model, batch)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            # Who asks for it refuses it, but would not know it any more with a term that has a gradient.
            return loss
        return loss + self.weight * orthogonal_loss(model)


def check_orthogonal_loss(config: TuningConfig, model: nn.Module) -> None:
    """Refuse the orthogonal loss where it cannot be computed, or would be nothing.

    Args:
        config: says whether it is asked for.
        model: the network that is trained, or its divided copy, with the frozen parameters frozen.

    Raises:
        OptionError: the parameters are divided, or no convolution is trained.
    """
    if not config.orthogonal_loss:
        return
    if is_divided(model):
        raise OptionError(
            "The orthogonal loss compares all filters of a layer, and FSDP divides them among the processes.",
            "Train without FSDP, or without the orthogonal loss.",
        )
    if not _trained_filters(model):
        raise OptionError(
            "The orthogonal loss is one of convolutions, and none of the network is trained.",
            "Leave it out, or freeze fewer layers.",
        )


def _trained_filters(model: nn.Module) -> list[Tensor]:
    """Return the weights of each convolution that is trained, `[J, n]`, a filter a row."""
    found: dict[nn.Parameter, Tensor] = {}
    for module in model.modules():
        if not isinstance(module, CONVOLUTIONS):
            continue
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is None or not weight.requires_grad or weight in found:
            continue
        if isinstance(module, TRANSPOSED):
            apart = weight.unflatten(0, (module.groups, -1)).transpose(1, 2)
            found[weight] = apart.flatten(0, 1).flatten(1)
        else:
            found[weight] = weight.flatten(1)
    return list(found.values())
