"""The estimate of a synthesis, held against networks whose time is known."""

import time

import pytest
import torch
from torch import Tensor, nn
from two_stages import CLASSES, Two, make_network

from surgeon.data import ImageConfig
from surgeon.exemplars import SynthesisConfig, estimate, measure_effort, prepare

FORWARD, TO_PIXELS, TO_WEIGHTS = 0.002, 0.003, 0.004
"""Seconds an image of 8x8 pixels."""


class _Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor) -> Tensor:
        ctx.seconds = len(images) * images.shape[2] * images.shape[3] / 64
        time.sleep(FORWARD * ctx.seconds)
        return images * 1

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        pixels, weights = ctx.needs_input_grad
        time.sleep((TO_PIXELS * pixels + TO_WEIGHTS * weights) * ctx.seconds)
        return gradient * 1 if pixels else None, gradient.sum() if weights else None


class Slow(Two):
    """Takes a known time in every direction, which grows with the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.slowness = nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return super().forward(_Slow.apply(images, self.slowness))


def gray(side: int) -> ImageConfig:
    return ImageConfig((1, side, side), (0.4,), (0.3,), "bilinear", 1.0)


def test_the_estimate_is_the_time_that_the_network_takes() -> None:
    model, config = Slow(), SynthesisConfig(20, 7, batch_size=10)
    prepared = prepare(model, (1, 8, 8), config)
    effort = measure_effort(model, gray(8), config, prepared)
    assert effort.forward == pytest.approx(FORWARD, rel=0.5)
    assert effort.training == pytest.approx(FORWARD + TO_WEIGHTS, rel=0.5)
    assert effort.costs == (pytest.approx(FORWARD + TO_PIXELS, rel=0.5),)
    assert effort.synthesis == pytest.approx(effort.costs[0] * 20 * 7)
    # With the batch that will be made.
    assert max(model.seen) == 10
    assert measure_effort(model, gray(8), config, prepared, trains=False).training == 0


def test_every_size_has_its_own_time_and_a_share_of_a_large_batch_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    model, config = Slow(), SynthesisConfig(32, 100, (96, 96))
    prepared = prepare(model, (1, 96, 96), config)
    assert [stage.size for stage in prepared.stages] == [(48, 48), (96, 96)]
    model.seen.clear()
    start = time.perf_counter()
    effort = measure_effort(model, gray(96), config, prepared, trains=False)
    # An image of 96x96 takes 0.7 s there and back, and one of 48x48 a quarter of that; all of them took 22 s and 6 s.
    assert time.perf_counter() - start < 4
    assert max(model.seen) == 1
    small, large = effort.costs
    assert small == pytest.approx((FORWARD + TO_PIXELS) * 36, rel=0.5)
    assert large == pytest.approx((FORWARD + TO_PIXELS) * 144, rel=0.5)
    assert effort.synthesis == pytest.approx(32 * (97 * small + 3 * large))


def test_the_network_is_left_as_it_was() -> None:
    model = make_network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = SynthesisConfig(4, 2, (96, 96))
    measure_effort(model, gray(96), config, prepare(model, (1, 96, 96), config))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None and p.is_contiguous() for p in model.parameters())
    assert model.num_classes == CLASSES
