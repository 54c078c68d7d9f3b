"""What speaks for an image before any network is asked whose class it shows, and what the network has seen itself.

Source: Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, section 3.
"""

import torch
from torch import Tensor

from surgeon.exemplars.moments import batch_statistics


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels, down the columns plus along the rows.

    Args:
        images: float [B, C, H, W]; an axis of one pixel has no neighbours and counts zero.

    Source: Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992; anisotropic.
    """
    down = images.diff(dim=2).abs().sum()
    along = images.diff(dim=3).abs().sum()
    return (down + along) / images.numel()


def mean_square(images: Tensor) -> Tensor:
    """Return the mean square of the normalized pixels, which is the squared L2 norm a pixel.

    Args:
        images: float [B, C, H, W].
    """
    return images.square().mean()


def statistics_distance(features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return `‖μ(x) - μ‖₂ + ‖σ²(x) - σ²‖₂` between a batch and a BatchNorm layer's running statistics (eq. 4).

    Args:
        features: float [B, C, ...], what the layer was given.
        mean: float [C], the running mean μ.
        variance: float [C], the running variance σ².

    Returns:
        A scalar, float32 at least.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    batch_mean, batch_variance = batch_statistics(features)
    return torch.linalg.vector_norm(batch_mean - mean) + torch.linalg.vector_norm(batch_variance - variance)
