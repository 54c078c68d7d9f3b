"""Move factors from the tensors that read channels to those that write them."""

from collections.abc import Mapping

import torch

from surgeon.coupling.graph import Scaling


def rescale(tensors: Mapping[str, torch.Tensor], scaling: Scaling, factors: torch.Tensor) -> None:
    """Multiply what writes every channel by its factor, and divide what reads it, in place.

    Args:
        tensors: the network's tensors by state-dict key.
        scaling: which of their positions take which factor up.
        factors: float64 `[scaling.size]`, above 0.
    """
    for part in scaling.parts:
        tensor = tensors[part.tensor].data
        view = (tensor if part.rows is None else tensor[part.rows]).movedim(part.dim, 0)
        taken = torch.where(part.scale >= 0, factors[part.scale], 1.0)
        spread = taken.to(view.device, view.dtype).reshape(-1, *[1] * (view.dim() - 1))
        if part.divided:
            view /= spread
        else:
            view *= spread
