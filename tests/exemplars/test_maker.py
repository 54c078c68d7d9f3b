"""The steps of a synthesis: their sizes, rates, jitter, flips and limits."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from two_stages import make_network

from surgeon.data import ImageConfig
from surgeon.exemplars import SynthesisConfig, synthesize
from surgeon.exemplars.maker import Maker
from surgeon.exemplars.prepare import still
from surgeon.exemplars.schedule import Stage

LARGE = ImageConfig((1, 96, 96), (0.4,), (0.3,), "bilinear", 1.0)
CONFIG = SynthesisConfig(6, 20, lr=0.25)


class Watched(nn.Module):
    """Takes down what a network is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_classes = model, 3
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.model(images)


def test_two_stages() -> None:
    model, shares, counted = Watched(make_network()), [], []

    def track(batches: Any, description: str, total: int | None = None) -> Any:
        counted.append(total)
        for batch in batches:
            counted.append(len(batch[0]))
            yield batch

    pixels, _ = synthesize(model, LARGE, CONFIG, 3, track=track, on_step=shares.append)
    assert tuple(pixels.shape) == (6, 1, 96, 96)
    sides = [images.shape[3] for images in model.seen if len(images) == 6]
    assert sides == [48] * 19 + [96]
    # A step at twice the sides counts four times.
    assert counted == [6 * (19 + 4), *[6] * 19, 24]
    assert shares == pytest.approx([*(n / 23 for n in range(1, 20)), 1])
    # The weights lie as before.
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    again, _ = synthesize(make_network(), LARGE, CONFIG, 3)
    assert torch.equal(pixels, again)


def test_the_share_follows_the_costs_of_the_stages() -> None:
    shares: list[float] = []
    synthesize(make_network(), LARGE, CONFIG, 3, costs=[1.0, 19.0], on_step=shares.append)
    assert shares == pytest.approx([*(n / 38 for n in range(1, 20)), 1])


def maker(model: nn.Module, count: int = 2, **options: Any) -> Maker:
    config = SynthesisConfig(count, 20, **options)
    return Maker(model, LARGE, config, torch.arange(count) % 3, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_rate_falls_along_a_cosine_and_halves_from_stage_to_stage(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    with still(model := make_network()):
        one = maker(model, lr=0.2)
        one.start((16, 16))
        for _ in one.refine(Stage((16, 16), 10), number):
            pass
    expected = [0.2 / 2**number * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert rates == pytest.approx(expected)


def test_every_step_rolls_and_some_mirror() -> None:
    model = Watched(nn.Sequential(nn.Flatten(), nn.Linear(24 * 16, 3)))
    with still(model):
        one = maker(model, lr=1e-12)
        one.start((24, 16))
        for _ in one.refine(Stage((24, 16), 60)):
            pass
    original = one.values
    found = []
    for images in model.seen:
        places = [
            (down, along, flipped)
            for down in range(-3, 4)
            for along in range(-2, 3)
            for flipped in (False, True)
            if torch.allclose(images, _moved(original, down, along, flipped), atol=1e-6)
        ]
        assert len(places) == 1
        found += places
    assert {down for down, _, _ in found} == set(range(-3, 4))
    assert {along for _, along, _ in found} == set(range(-2, 3))
    assert 15 < sum(flipped for _, _, flipped in found) < 45


def _moved(images: Tensor, down: int, along: int, flipped: bool) -> Tensor:
    rolled = images.roll((down, along), dims=(2, 3))
    return rolled.flip(3) if flipped else rolled


def test_the_images_stay_within_what_pixels_can_be() -> None:
    with still(model := make_network()):
        one = maker(model, lr=5.0)
        one.start((16, 16))
        for stage in (Stage((16, 16), 3), Stage((32, 32), 2)):
            for _ in one.refine(stage):
                pass
            low, high = one.values.min().item(), one.values.max().item()
            assert (low, high) == (pytest.approx(-0.4 / 0.3), pytest.approx(0.6 / 0.3))
    pixels = one.pixels()
    assert (pixels.dtype, pixels.min(), pixels.max()) == (torch.uint8, 0, 255)
