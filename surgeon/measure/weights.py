"""Statistics of a layer's weights alone."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 128
"""Filters that are compared with as many others at a time."""


def filter_norms(weight: Tensor, p: float = 2, dim: int = 0) -> Tensor:
    """Give the p-norm of every filter, or of every slice along another axis.

    Args:
        weight: any shape, e.g. `[O, I, kh, kw]`.
        p: order of the norm, 1 for the sum of magnitudes.
        dim: the axis that counts the filters.

    Returns:
        `[weight.shape[dim]]`.
    """
    norms: Tensor = torch.linalg.vector_norm(_rows(weight, dim), ord=p, dim=1)
    return norms


def orthogonality_sums(weight: Tensor, dim: int = 0) -> Tensor:
    """Give how much every filter overlaps with the others of its layer, larger for a more redundant one.

    A filter of zeros has no direction: the equations give it `1 / J`, its own place on the diagonal.

    Args:
        weight: any shape, e.g. `[O, I, kh, kw]`.
        dim: the axis that counts the J filters.

    Returns:
        `[J]`, each `O_f = sum(P[f]) / J` with `P = |W W^T - I|` of the normalized filters W.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, eq. 1 and 2.
    """
    filters = _rows(weight, dim)
    # All J² overlaps may be more numbers than the weights, which are themselves worth no second copy.
    blocks = filters.split(ROWS)
    sums = [filters.new_zeros(len(block)) for block in blocks]
    for first, block in enumerate(blocks):
        directions = normalize(block, dim=1)
        own = directions @ directions.T
        own.diagonal().sub_(1)
        sums[first] += own.abs_().sum(1)
        for second in range(first):
            overlaps = (directions @ normalize(blocks[second], dim=1).T).abs_()
            sums[first] += overlaps.sum(1)
            sums[second] += overlaps.sum(0)
    return torch.cat(sums) / len(filters)


def _rows(weight: Tensor, dim: int) -> Tensor:
    return weight.movedim(dim, 0).reshape(weight.shape[dim], -1)
