"""Mean and variance of the channels, by either way of computing them."""

import pytest
import torch

from surgeon.exemplars import moments
from surgeon.exemplars.moments import batch_statistics


def lying(features: torch.Tensor) -> torch.Tensor:
    return features.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_channels_last_gives_the_same_statistics_and_gradients(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = scale * torch.randn(5, 7, 4, 6, generator=generator, dtype=torch.float64) + 2 * scale
    of_mean, of_variance = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    results = []
    for laid in (features, lying(features)):
        given = laid.clone().requires_grad_()
        assert moments._lies_channels_last(given) == (laid is not features)
        mean, variance = batch_statistics(given)
        (gradient,) = torch.autograd.grad((mean * of_mean + variance * of_variance).sum(), given)
        results.append((mean.detach(), variance.detach(), gradient))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(results[1][1], features.transpose(0, 1).flatten(1).var(1, correction=0))


def test_a_gradient_checked_by_differences() -> None:
    features = lying(torch.randn(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert torch.autograd.gradcheck(batch_statistics, features.requires_grad_())


def test_a_channel_without_variance() -> None:
    features = lying(torch.full((2, 3, 4, 4), 5.0)).requires_grad_()
    mean, variance = batch_statistics(features)
    assert mean.tolist() == [5, 5, 5]
    assert all(0 <= value < 1e-9 for value in variance.tolist())
