"""Priors of images, against values worked by hand and against BatchNorm itself."""

import pytest
import torch
from torch import nn

from surgeon.exemplars.priors import mean_square, statistics_distance, total_variation
from surgeon.exemplars.statistics import FIRST_LAYER_WEIGHT, statistics_term


def test_total_variation_of_a_small_image() -> None:
    image = torch.tensor([[[[0.0, 2.0, 2.0], [1.0, -1.0, 5.0]]]])
    # Down the columns 1 + 3 + 3, along the rows 2 + 0 and 2 + 6, over six pixels.
    assert total_variation(image).item() == pytest.approx(17 / 6)
    assert total_variation(torch.full((2, 3, 4, 5), 7.0)).item() == 0
    assert total_variation(torch.ones(1, 1, 1, 1)).item() == 0


def test_mean_square_of_a_small_image() -> None:
    assert mean_square(torch.tensor([[[[1.0, -3.0], [0.0, 2.0]]]])).item() == pytest.approx(14 / 4)


def test_the_distance_of_statistics_by_hand() -> None:
    # Channel 0 holds 1 and 3 (mean 2, variance 1), channel 1 holds 0 and 4 (mean 2, variance 4).
    features = torch.tensor([[[1.0], [0.0]], [[3.0], [4.0]]])
    mean, variance = torch.tensor([-1.0, 6.0]), torch.tensor([1.0, 2.0])
    assert statistics_distance(features, mean, variance).item() == pytest.approx((3**2 + 4**2) ** 0.5 + 2)


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 5), (8, 3, 4, 5), (4, 3, 2, 3, 2)])
def test_the_distance_vanishes_where_batch_norm_would_remember_the_same(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3, momentum=None)
    layer.double()(features)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    values = features.numel() // 3
    biased = layer.running_var * (values - 1) / values
    assert statistics_distance(features, layer.running_mean, biased).item() == pytest.approx(0, abs=1e-12)
    assert statistics_distance(features + 2, layer.running_mean, biased).item() == pytest.approx(2 * 3**0.5)


def test_the_first_layer_counts_more_and_no_hook_stays() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Identity(), nn.BatchNorm2d(1)).eval()
    images = torch.tensor([1.0, 3.0])[:, None, None, None].requires_grad_()
    with statistics_term(model) as term:
        assert term.take() is None
        model(images)
        distance = term.take()
        assert term.take() is None
    # Mean 2 and variance 1 against 0 and 1; the first layer divides by the square root of 1 + 1e-5 only.
    assert distance is not None
    assert distance.item() == pytest.approx(FIRST_LAYER_WEIGHT * 2 + 2, rel=1e-4)
    distance.backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_network_without_running_statistics_has_no_term() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.GroupNorm(1, 1))
    with statistics_term(model) as term:
        model(torch.randn(2, 1, 3, 3))
        assert term.take() is None
