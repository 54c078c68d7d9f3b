"""The criteria that rank filters from weak to strong, each a pure function, and the one table of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surgeon.measure.weights import filter_norms, orthogonality_sums

Reads = Literal["weight", "gamma", "nothing", "images", "labels"]


def ortho(weight: Tensor, dim: int = 0) -> Tensor:
    """Give the overlap of every filter with the others of its layer: `O_f = Σ P[f] / J`, `P = |Ŵ Ŵᵀ - I|`.

    Args:
        weight: any shape, e.g. `[O, I, kh, kw]`.
        dim: the axis that counts the J filters.

    Returns:
        `[J]`, 0 … 1; the largest are weakest.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, eq. 1 and 2.
    """
    return orthogonality_sums(weight, dim)


def l1(weight: Tensor, dim: int = 0) -> Tensor:
    """Give the sum of the magnitudes of every filter's weights, `Σ |w|`; arguments and result as for `ortho`.

    Source: Li et al., Pruning Filters for Efficient ConvNets, section 3.1.
    """
    return filter_norms(weight, 1, dim)


def l2(weight: Tensor, dim: int = 0) -> Tensor:
    """Give the Euclidean norm of every filter, `√(Σ w²)`; arguments and result as for `ortho`.

    Source: Baddar et al., Self-Reorganizing and Rejuvenating CNNs, table 2, after Han et al., DSD.
    """
    return filter_norms(weight, 2, dim)


def gamma(scale: Tensor) -> Tensor:
    """Give the magnitude of every filter's BatchNorm scale, `|γ|`.

    Args:
        scale: `[O]`.

    Returns:
        `[O]`; the smallest are weakest.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, section 3.
    """
    return scale.abs()


def random(filters: int, generator: torch.Generator) -> Tensor:
    """Give every filter a number of its own, uniform in [0, 1).

    Args:
        filters: number of filters.
        generator: on the CPU.

    Source: the control of Prakash et al., RePr, and of Molchanov et al.
    """
    return torch.rand(filters, generator=generator)


def activation(outputs: Tensor) -> Tensor:
    """Give the mean magnitude of every filter's output in each image, `Σ_m |a_m| / M` over its M positions.

    The score is the mean over images.

    Args:
        outputs: `[N, O, M]`, after the layer's BatchNorm and before any activation function.

    Returns:
        `[N, O]`; filters of small mean are weakest.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2.
    """
    return outputs.abs().mean(2)


def apoz(outputs: Tensor) -> Tensor:
    """Give the share of every filter's positions in each image that a ReLU behind it sets to zero, `Σ_m [a_m ≤ 0] / M`.

    That is counted before the ReLU, where a non-positive number becomes its zero; it is a share of the layer's own
    positions even where a shortcut is added first. The score is the mean over images, the average percentage of zeros.

    Args:
        outputs: `[N, O, M]`, after the layer's BatchNorm and before any activation function.

    Returns:
        `[N, O]`, 0 … 1; filters of large mean are weakest.

    Source: Hu et al., Network Trimming, eq. 1.
    """
    return (outputs <= 0).to(torch.float32).mean(2)


def taylor(outputs: Tensor, gradients: Tensor) -> Tensor:
    """Estimate how much the loss of each image changes without a filter, `|Σ_m a_m · ∂C/∂a_m / M|`.

    The score is the mean over images, divided by the Euclidean norm of the layer's scores: see `layerwise`.

    Args:
        outputs: `[N, O, M]`, after the layer's BatchNorm and before any activation function.
        gradients: `[N, O, M]`, of the sum of the images' losses.

    Returns:
        `[N, O]`; filters of small mean are weakest.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2.
    """
    return (outputs * gradients).mean(2).abs()


def layerwise(scores: Tensor) -> Tensor:
    """Make the scores of layers comparable, `Θ / √(Σ Θ²)` over the filters of one layer; scores of zero stay.

    Args:
        scores: `[O]`, of one layer.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2.
    """
    return torch.nn.functional.normalize(scores, dim=0)


def oracle(accuracy: float, without: Tensor) -> Tensor:
    """Give the drop in accuracy when one filter at a time is zeroed, `accuracy - accuracy without f`.

    Args:
        accuracy: share of right answers of the whole network, 0 … 1.
        without: `[O]`, the same with each filter zeroed.

    Returns:
        `[O]`, -1 … 1; the smallest (an accuracy that rises) are weakest.

    Source: Prakash et al., RePr: Improved Training of Convolutional Filters, section 3, "greedy Oracle".
    """
    return accuracy - without


@dataclass(frozen=True)
class Criterion:
    """One way to rank filters.

    Attributes:
        name: as in `--set criterion=name`.
        source: authors and title.
        reads: what the score is computed from: the filters' weights, the BatchNorm scale, nothing, or labelled images.
        weakest: whether the filters with the smallest or the largest scores are weakest.
        score: the function.
    """

    name: str
    source: str
    reads: Reads
    weakest: Literal["smallest", "largest"]
    score: Callable[..., Tensor]

    @property
    def needs_data(self) -> bool:
        """Whether it is measured on images."""
        return self.reads in ("images", "labels")

    @property
    def needs_labels(self) -> bool:
        """Whether the images it is measured on need labels."""
        return self.reads == "labels"

    def strength(self, scores: Tensor) -> Tensor:
        """Return numbers that are smallest for the weakest filters."""
        return scores if self.weakest == "smallest" else -scores


_REPR = "Prakash et al., RePr"
_MOLCHANOV = "Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference"

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion("ortho", _REPR, "weight", "largest", ortho),
        Criterion("l1", "Li et al., Pruning Filters for Efficient ConvNets", "weight", "smallest", l1),
        Criterion("l2", "Han et al., DSD", "weight", "smallest", l2),
        Criterion("gamma", "Liu et al., Network Slimming", "gamma", "smallest", gamma),
        Criterion("activation", _MOLCHANOV, "images", "smallest", activation),
        Criterion("apoz", "Hu et al., Network Trimming", "images", "largest", apoz),
        Criterion("taylor", _MOLCHANOV, "labels", "smallest", taylor),
        Criterion("oracle", _REPR, "labels", "smallest", oracle),
        Criterion("random", _REPR, "nothing", "smallest", random),
    )
}
