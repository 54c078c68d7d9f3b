"""Making images from small networks: that the classes are in them, and what refuses."""

import copy
import dataclasses
import functools
import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from two_stages import CLASSES, Two

from surgeon.data import ImageConfig
from surgeon.data.sampling import spread_labels
from surgeon.errors import DivergenceError, OptionError
from surgeon.exemplars import SynthesisConfig, prepare, synthesize
from surgeon.exemplars.recognize import recognized_share
from surgeon.exemplars.statistics import statistics_term
from surgeon.exemplars.synthesize import spread_batches

GRAY = ImageConfig((1, 8, 8), (0.4,), (0.3,), "bilinear", 1.0)
COLOR = ImageConfig((3, 16, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), "bilinear", 1.0)
CONFIG = SynthesisConfig(count=12, steps=60)


@functools.cache
def learnt() -> dict[str, Tensor]:
    """The weights of a network that tells stripes along, stripes down and no stripes from each other."""
    stripes = torch.tensor([1.0, -1.0] * 4)
    patterns = torch.stack([stripes.expand(8, 8), stripes.expand(8, 8).T, torch.zeros(8, 8)])[:, None]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Two()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(60):
            labels = torch.arange(24) % CLASSES
            loss = nn.functional.cross_entropy(model(patterns[labels] + 0.5 * torch.randn(24, 1, 8, 8)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


def two() -> Two:
    model = Two()
    model.load_state_dict(learnt())
    return model.eval()


def normalized(pixels: Tensor, config: ImageConfig) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (pixels / 255 - mean) / std


def distance(model: nn.Module, images: Tensor) -> float:
    with torch.no_grad(), statistics_term(model) as term:
        model(images)
        found = term.take()
    assert found is not None
    return found.item()


def test_the_network_sees_the_classes_and_its_own_statistics() -> None:
    model = two()
    pixels, labels = synthesize(model, GRAY, CONFIG, CLASSES)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (12, 1, 8, 8))
    assert labels.tolist() == [0, 1, 2] * 4
    images = normalized(pixels, GRAY)
    right = (model(images).argmax(1) == labels).float().mean().item()
    for batch_size in (5, 12):
        assert recognized_share(model, GRAY, pixels, labels, batch_size=batch_size) == pytest.approx(right)
        assert recognized_share(model, GRAY, pixels, (labels + 1) % 3, batch_size=batch_size) <= 1 - right
    assert (model(images).argmax(1) == labels).float().mean() > 0.9
    noise = torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    assert distance(model, images) < distance(model, normalized(noise, GRAY)) / 2


def test_each_term_of_the_loss_has_its_effect() -> None:
    model = two()
    without = dict.fromkeys(("statistics_weight", "variation_weight", "norm_weight"), 0.0)
    plain, _ = synthesize(model, GRAY, dataclasses.replace(CONFIG, **without), CLASSES)
    alone = {name: {**without, name: 3.0} for name in without}
    made = {
        name: normalized(synthesize(model, GRAY, dataclasses.replace(CONFIG, **weights), CLASSES)[0], GRAY)
        for name, weights in alone.items()
    }
    bare = normalized(plain, GRAY)
    assert distance(model, made["statistics_weight"]) < distance(model, bare) / 2
    assert made["variation_weight"].diff(dim=3).abs().mean() < bare.diff(dim=3).abs().mean() / 2
    assert made["norm_weight"].square().mean() < bare.square().mean() / 2


def test_the_same_seed_gives_the_same_images_and_the_network_stays_as_it_was() -> None:
    model = two()
    model.two.train()
    model.one[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    made = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        made.append(synthesize(model, GRAY, SynthesisConfig(5, 4, seed=7), CLASSES)[0])
    assert torch.equal(*made)
    assert not torch.equal(made[0], synthesize(model, GRAY, SynthesisConfig(5, 4, seed=8), CLASSES)[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in (model.one[1], model.two[1])] == [False, True]
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert [name for name, wanted in required.items() if not wanted] == ["one.0.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_many_images_are_made_in_several_batches_of_all_classes() -> None:
    seen: list[list[int]] = []

    def track(batches: Any, description: str, total: int | None = None) -> Any:
        for batch in batches:
            seen.append(sorted(batch[0].tolist()))
            yield batch

    shares: list[float] = []
    pixels, labels = synthesize(two(), GRAY, SynthesisConfig(65, 2), CLASSES, track=track, on_step=shares.append)
    assert len(pixels) == len(labels) == 65
    assert sorted(len(batch) for batch in seen) == [32, 32, 33, 33]
    assert all({0, 1, 2} <= set(batch) for batch in seen)
    # Every image was made: none is the same as another.
    assert len({image.numpy().tobytes() for image in pixels}) == 65
    assert shares == pytest.approx([33 / 130, 66 / 130, 98 / 130, 1])


@pytest.mark.parametrize(("count", "classes"), [(128, 2), (128, 64), (1000, 100), (100, 1000), (65, 3), (200, 16)])
def test_every_batch_has_the_classes_evenly(count: int, classes: int) -> None:
    labels = spread_labels(count, classes)
    batches = spread_batches(labels, 64)
    assert torch.cat(batches).sort().values.tolist() == list(range(count))
    assert len(batches) == math.ceil(count / 64)
    sizes = torch.tensor([len(batch) for batch in batches])
    assert sizes.max() - sizes.min() <= 1
    counts = torch.stack([torch.bincount(labels[batch], minlength=classes) for batch in batches])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    assert all(batch.tolist() == sorted(batch.tolist()) for batch in batches)


def test_what_fits_into_one_batch_keeps_its_order() -> None:
    assert [batch.tolist() for batch in spread_batches(spread_labels(32, 10), 64)] == [list(range(32))]


def test_the_batches_are_as_small_as_is_asked_for() -> None:
    counted: list[int] = []

    def track(batches: Any, description: str, total: int | None = None) -> Any:
        counted.append(total or 0)
        for batch in batches:
            counted.append(len(batch[0]))
            yield batch

    synthesize(two(), GRAY, SynthesisConfig(5, 2, batch_size=2), CLASSES, track=track)
    # One bar over all batches and steps.
    assert counted == [10, 2, 2, 2, 2, 1, 1]


def test_a_network_without_batch_norm_in_colour() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    pixels, labels = synthesize(model, COLOR, SynthesisConfig(8, 60, (12, 14)), 4)
    assert tuple(pixels.shape) == (8, 3, 12, 14)
    answers = model.eval()(normalized(pixels, COLOR))
    assert (answers.softmax(1)[torch.arange(8), labels] > 0.25).float().mean() > 0.7


def test_a_transformer_keeps_its_one_size() -> None:
    model = timm.create_model("test_vit", num_classes=5, dynamic_img_size=False).eval()
    config = ImageConfig((3, 160, 160), (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)
    steps: list[int] = []

    def track(batches: Any, description: str, total: int | None = None) -> Any:
        for batch in batches:
            steps.append(len(batch[0]))
            yield batch

    pixels, _ = synthesize(model, config, SynthesisConfig(2, 3), 5, track=track)
    assert tuple(pixels.shape) == (2, 3, 160, 160)
    assert len(steps) == 3
    # 0.97 / 4 + 0.03 of the usual 200 steps, since it takes no 80x80 pixels.
    assert prepare(model, (3, 160, 160), SynthesisConfig(2)).steps == 54


@pytest.mark.parametrize("where", ["head", "stage"])
def test_broken_weights_are_found_out_before_the_first_step(where: str) -> None:
    model = two()
    with torch.no_grad():
        (model.head if where == "head" else model.one[0]).weight.view(-1)[0] = math.nan
    steps: list[float] = []
    with pytest.raises(DivergenceError, match="NaN"):
        synthesize(model, GRAY, SynthesisConfig(3, 2), CLASSES, on_step=steps.append)
    assert not steps


class Root(nn.Module):
    """Adds the square root of zero, which has no gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_classes = model, CLASSES

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + (images - images.detach()).abs().sqrt().mean()


def test_a_gradient_that_is_none_is_found_out_at_the_first_step() -> None:
    steps: list[float] = []
    with pytest.raises(DivergenceError, match="NaN"):
        synthesize(Root(two()), GRAY, SynthesisConfig(3, 50), CLASSES, on_step=steps.append)
    assert not steps


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"steps": 0},
        {"size": (0, 4)},
        {"batch_size": 0},
        {"seed": -1},
        {"lr": 0.0},
        {"norm_weight": math.inf},
    ],
)
def test_options_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        SynthesisConfig(**change)
