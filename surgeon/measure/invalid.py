"""Which filters and kernels are too weak to learn, by rank of their magnitudes alone."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from surgeon.measure.shares import part

PIECE = 2**16
"""Values that are worked on at a time: in double precision, a large layer would be worth several copies of itself."""


def lowest(values: Tensor, share: float) -> Tensor:
    """Give the places of the lowest values along the last axis, the lowest first; of equal ones the earlier is lower.

    Args:
        values: `[…, n]`.
        share: 0 … 1; `floor(share · n)` places are given, share taken as the decimal number that it prints as.

    Returns:
        LongTensor `[…, floor(share · n)]`.
    """
    return values.argsort(dim=-1, stable=True)[..., : part(share, values.shape[-1])]


def mean_magnitudes(weight: Tensor, dim: int = 0) -> Tensor:
    """Give the mean magnitude of every filter's weights.

    Args:
        weight: `[O, I, …]`, or with the O filters along another axis.
        dim: the axis that counts the filters.

    Returns:
        float64 `[O]`.
    """
    return by_pieces(weight, dim, lambda rows: rows.flatten(1).abs().mean(1, dtype=torch.float64))


def invalid_filters(
    weights: Mapping[str, Tensor], filters: Mapping[str, int], alpha: float, beta: float
) -> dict[str, Tensor]:
    """Give the filters that are among the weakest of the network and among the weakest of their layer.

    The first condition compares mean magnitudes, because a filter's sum depends on its layer's size; within a layer
    all filters are of one size. Of equal filters the one of the earlier layer or place is weaker.

    Args:
        weights: by name, `[O, I, …]`, or with the O filters along another axis.
        filters: by the same names, the axis that counts the filters.
        alpha: share of all filters of all these weights, 0 … 1, rounded down to a whole number of filters.
        beta: share of each weight's filters, 0 … 1, likewise.

    Returns:
        By the same names, bool `[O]` on the CPU.

    Source: Lee, Kim: Versatile kernel reactivation for deep convolutional neural networks, C1 and C2.
    """
    if not weights:
        return {}
    means = {name: mean_magnitudes(weight, filters[name]).cpu() for name, weight in weights.items()}
    everything = torch.cat(list(means.values()))
    weakest = _mask(everything, alpha).split([len(mean) for mean in means.values()])
    return {name: overall & _mask(means[name], beta) for name, overall in zip(means, weakest, strict=True)}


def invalid_kernels(weight: Tensor, filters: int, invalid: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Give the kernels of lowest L1 norm in each invalid filter, and the norms of all kernels of these filters.

    A kernel is the part of a filter that reads one input channel. Kernels of a single weight have no shape that could
    be kept, so a layer of 1×1 kernels has no invalid ones.

    Args:
        weight: `[O, I, …]`, or `[I, O, …]` of a transposed convolution in one group, with any number of spatial axes.
        filters: the axis that counts the filters, 0 or 1.
        invalid: bool `[O]`, the n invalid filters.
        gamma: share of a filter's kernels, 0 … 1, rounded down to a whole number of kernels.

    Returns:
        LongTensor `[n, floor(gamma · I)]`, for each invalid filter the numbers of its weakest kernels, the weakest
        first, and float64 `[n, I]`, the norms.

    Source: Lee, Kim: Versatile kernel reactivation for deep convolutional neural networks, C3.
    """
    chosen = torch.nonzero(invalid).flatten().to(weight.device)
    norms = kernel_norms(weight, filters, chosen)
    eligible = norms if weight.shape[2:].numel() > 1 else norms[:, :0]
    pieces = eligible.split(max(1, PIECE // max(1, norms.shape[1])))
    return torch.cat([lowest(piece, gamma) for piece in pieces]), norms


def kernel_norms(weight: Tensor, filters: int = 0, chosen: Tensor | None = None) -> Tensor:
    """Give the L1 norm of every kernel.

    Args:
        weight: `[O, I, …]`, or `[I, O, …]` of a transposed convolution in one group.
        filters: the axis that counts the filters, 0 or 1.
        chosen: LongTensor `[n]` on the weight's device, numbers of filters; all of them by default.

    Returns:
        float64 `[O, I]`, or `[n, I]`.
    """

    def norms(rows: Tensor) -> Tensor:
        return kernels_of(rows).abs().sum(2, dtype=torch.float64)

    return by_pieces(weight, filters, norms, chosen)


def kernels_of(rows: Tensor) -> Tensor:
    """Show filters `[n, I, …]` as `[n, I, weights of a kernel]`."""
    return rows.unsqueeze(-1).flatten(2)


def by_pieces(
    weight: Tensor, filters: int, numbers: Callable[[Tensor], Tensor], chosen: Tensor | None = None
) -> Tensor:
    """Give numbers of filters, worked out from a few filters at a time.

    Args:
        weight: the layer's weight.
        filters: the axis that counts the filters.
        numbers: for filters `[n, …]`, what is wanted of them, `[n, …]`.
        chosen: LongTensor on the weight's device, numbers of filters; all of them by default.
    """
    rows = weight.movedim(filters, 0)
    size = max(1, PIECE // max(1, rows.shape[1:].numel()))
    none = numbers(rows[:0])
    result = none.new_empty(len(rows if chosen is None else chosen), *none.shape[1:])
    pieces = rows.split(size) if chosen is None else (rows[few] for few in chosen.split(size))
    for piece, target in zip(pieces, result.split(size), strict=True):
        target.copy_(numbers(piece))
    return result


def _mask(values: Tensor, share: float) -> Tensor:
    mask = torch.zeros(values.shape, dtype=torch.bool)
    mask[lowest(values, share)] = True
    return mask
