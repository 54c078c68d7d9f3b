"""The information in a tensor's values."""

import torch
from torch import Tensor

# Values in one piece: small enough for the cache and for one thread, so that a large layer is never copied whole.
PIECE = 2**15


def histogram_entropy(values: Tensor, bins: int = 10) -> float:
    """Give the entropy of a histogram of values over their own range, in nats (natural logarithm).

    Args:
        values: any shape, at least one value, all finite.
        bins: number of bins of equal width from the smallest to the largest value, both included.

    Returns:
        `−Σ p log p` over the bins' shares p, from 0 for values that are all equal to `log(bins)`.

    Source: Meng et al.: Filter Grafting for Deep Neural Networks, CVPR 2020.
    """
    flat = values.detach().flatten()
    low, high = (float(end) for end in flat.aminmax())
    if low == high:
        return 0.0
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=flat.device)
    for piece in flat.split(PIECE):
        # Not in place: a piece of float64 values is a view of the values themselves.
        places = (piece.double() - low).mul_(bins / (high - low)).int()
        counts += torch.bincount(places, minlength=bins + 1)
    # The largest value lies on the upper end of the last bin, which belongs to it.
    counts[bins - 1] += counts[bins]
    return float(torch.special.entr(counts[:bins].double() / len(flat)).sum())
