"""Channel regeneration: thresholds by hand, the rule by plain loops, and the function kept."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import surgeon
from surgeon.edit.verify import randomize
from surgeon.errors import LayerError, OptionError
from surgeon.methods.channel_regeneration import ChannelRegenerationConfig, threshold

METHOD = "channel-regeneration"
CHECKPOINTS = Path(__file__).resolve().parents[2].parent / "shared/data/checkpoints"
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Chain(nn.Module):
    """Two convolutions with BatchNorm, and a head."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
        self.act, self.head = act or nn.ReLU(), nn.Linear(2, 3)
        with torch.no_grad():
            self.norm1.weight.copy_(torch.tensor([0.1, 0.5, -0.7, 2.0]))
            self.norm2.weight.copy_(torch.tensor([0.009, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.head(self.act(self.norm2(self.conv2(x))).mean((2, 3)))


class Stream(nn.Module):
    """A stream that two BatchNorms write, and a head."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(3, len(first), 3), nn.BatchNorm2d(len(first))
        self.conv1, self.norm1 = nn.Conv2d(3, len(second), 3), nn.BatchNorm2d(len(second))
        self.head = nn.Linear(len(first), 3)
        randomize(self, torch.Generator().manual_seed(2))
        with torch.no_grad():
            self.norm0.weight.copy_(torch.tensor(first))
            self.norm1.weight.copy_(torch.tensor(second))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.norm0(self.conv0(x)) + self.norm1(self.conv1(x))).relu().mean((2, 3)))


class Parted(Chain):
    """The first three channels of a BatchNorm go one way, the last two another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1, self.conv2 = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.conv1(x))
        x = torch.cat([nn.functional.gelu(x[:, :3]), x[:, 3:].sigmoid()], 1)
        return self.head(self.norm2(self.conv2(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("rule", "value"),
    # Sorted: -0.7, 0.009, 0.1, 0.5, 1, 2: the middle ones are 0.1 and 0.5, the sum 2.909.
    [("median", 0.3), ("mean", 2.909 / 6), ("max", 2.0), (0.2, 0.2)],
)
def test_thresholds_by_hand(rule: str | float, value: float) -> None:
    model = Chain()
    scales = [model.norm1.weight.detach(), model.norm2.weight.detach()]
    assert threshold(scales, rule) == pytest.approx(value, rel=1e-6)


def test_scales_at_or_below_the_threshold_become_it() -> None:
    model = Chain()
    plan = surgeon.plan(model, METHOD, example_input=IMAGES)
    surgeon.execute(model, plan)
    assert model.norm1.weight.tolist() == pytest.approx([0.3, 0.5, 0.3, 2.0])
    assert model.norm2.weight.tolist() == pytest.approx([0.3, 1.0])
    assert plan.figures == {"BatchNorm scales": {"threshold": pytest.approx(0.3), "scales": 6, "weak": 3, "raised": 3}}
    assert {change.tensor for change in plan.changes()} == {"norm1.weight", "norm2.weight"}


def test_inhibited_only_and_layers_narrow_the_choice() -> None:
    model = Chain()
    surgeon.execute(model, surgeon.plan(model, METHOD, example_input=IMAGES, inhibited_only=0.01))
    assert model.norm1.weight.tolist() == pytest.approx([0.1, 0.5, -0.7, 2.0])
    assert model.norm2.weight.tolist() == pytest.approx([0.3, 1.0])
    model = Chain()
    plan = surgeon.plan(model, METHOD, ["norm2"], example_input=IMAGES, threshold="max")
    surgeon.execute(model, plan)
    assert model.norm1.weight.tolist() == pytest.approx([0.1, 0.5, -0.7, 2.0])
    assert model.norm2.weight.tolist() == pytest.approx([1.0, 1.0])


def test_preserve_moves_the_factor_by_hand() -> None:
    model = Chain()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.norm1.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    surgeon.execute(model, surgeon.plan(model, METHOD, ["norm1"], example_input=IMAGES, preserve=True, threshold=0.6))
    assert model.norm1.weight.tolist() == pytest.approx([0.6, 0.6, -0.7, 2.0])
    assert model.norm1.bias.tolist() == pytest.approx([6.0, 2.4, 3.0, 4.0])
    factors = torch.tensor([6.0, 1.2, 1.0, 1.0])
    torch.testing.assert_close(model.conv2.weight, before["conv2.weight"] / factors[:, None, None])
    assert torch.equal(model.conv1.weight, before["conv1.weight"])
    assert torch.equal(model.norm1.running_var, before["norm1.running_var"])


@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2_x0_5", "vgg11_bn"])
@pytest.mark.parametrize("most", [None, 10.0])
def test_preserve_keeps_relu_networks_and_lifts_every_weak_scale_if_asked(name: str, most: float | None) -> None:
    model = torchvision.models.get_model(name, weights=None).double().eval()
    randomize(model, torch.Generator().manual_seed(3))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before = model(images)
    largest = float(magnitudes(model).max())
    plan = surgeon.plan(model, METHOD, preserve=True, max_factor=most)
    surgeon.execute(model, plan)
    with torch.no_grad():
        after = model(images)
    assert float((before - after).norm() / before.norm()) < 1e-9
    figures = plan.figures["BatchNorm scales"]
    assert figures["weak"] >= figures["raised"] > 0
    if most is None:
        assert figures["raised"] == figures["weak"]
        assert float(magnitudes(model).min()) >= figures["threshold"] * (1 - 1e-12)
    else:
        assert float(magnitudes(model).max()) <= largest * (1 + 1e-12)


def magnitudes(model: nn.Module) -> torch.Tensor:
    return torch.cat([module.weight.detach().abs() for module in model.modules() if isinstance(module, nn.BatchNorm2d)])


@pytest.mark.parametrize(
    ("most", "first", "second"),
    # The threshold is 0.5 and the largest scale 5. Channel 0 needs 5 and channel 1 needs 2.5; the others need nothing.
    [
        # At most 5: channel 0 gets its 5, which takes the stronger scale to 5; channel 1 only 5 / 3.
        (10.0, [0.5, 1 / 3, 0.5, 4.0], [5.0, 5.0, 1.0, 5.0]),
        # At most 3 · 0.5 = 1.5: channel 0 gets 1.5, and channel 1, which has a stronger scale already, nothing.
        (3.0, [0.15, 0.2, 0.5, 4.0], [1.5, 3.0, 1.0, 5.0]),
        (None, [0.5, 0.5, 0.5, 4.0], [5.0, 7.5, 1.0, 5.0]),
    ],
)
def test_a_shared_factor_by_hand(most: float | None, first: list[float], second: list[float]) -> None:
    model = Stream([0.1, 0.2, 0.5, 4.0], [1.0, 3.0, 1.0, 5.0])
    plan = surgeon.plan(model, METHOD, example_input=IMAGES, preserve=True, threshold=0.5, max_factor=most)
    surgeon.execute(model, plan)
    assert model.norm0.weight.tolist() == pytest.approx(first)
    assert model.norm1.weight.tolist() == pytest.approx(second)
    moved = sum(old != pytest.approx(new) for old, new in zip([1.0, 3.0, 1.0, 5.0], second, strict=True))
    assert plan.figures["BatchNorm scales"] == {
        "threshold": 0.5, "scales": 8, "weak": 2, "raised": moved, "moved_along": moved,
        "largest_factor": pytest.approx(first[0] / 0.1),
    }  # fmt: skip
    held = sum(scale < 0.499 for scale in first)
    expected = f"norm0.weight: {held} scales stay below the threshold: a scale that shares their factor would pass"
    assert [line.startswith(expected) for line in plan.skipped] == [True] * bool(held)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0] * 6, [10.0] * 6),
        ([1e-4, 1.0, 1.0, 1.0], [3.0, 2.0, 0.5, 1.0]),
        ([0.2, -0.3, 0.4, 0.1], [-2.0, 3.0, 4.0, 0.01]),
    ],
)
@pytest.mark.parametrize("rule", ["median", "mean", "max"])
def test_repetitions_stay_bounded(first: list[float], second: list[float], rule: str) -> None:
    model = Stream(first, second).double().eval()
    images = IMAGES.double()
    largest, expected = magnitudes(model).max(), model(images)
    for _ in range(4):
        surgeon.execute(model, surgeon.plan(model, METHOD, example_input=images, preserve=True, threshold=rule))
        assert magnitudes(model).max() <= largest * (1 + 1e-12)
        assert all(float(tensor.detach().abs().max()) < 100 for tensor in model.parameters())
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-12)


def test_what_moves_along_outside_of_the_selection_is_said() -> None:
    model = Stream([0.1, 0.2, 0.5, 4.0], [1.0, 3.0, 1.0, 5.0])
    options: dict[str, Any] = {"example_input": IMAGES, "preserve": True, "threshold": 0.5, "max_factor": None}
    plan = surgeon.plan(model, METHOD, ["norm0"], **options)
    assert plan.skipped == ("norm1.weight, norm1.bias move along: they write the same channels.",)
    assert plan.figures["BatchNorm scales"]["moved_along"] == 2
    assert surgeon.plan(model, METHOD, ["norm0", "norm1"], **options).skipped == ()


def test_under_preserve_the_threshold_counts_magnitudes() -> None:
    # 0.009, 0.1, 0.5, 0.7, 1 and 2; with signs, the median is 0.3.
    plan = surgeon.plan(Chain(), METHOD, example_input=IMAGES, preserve=True)
    assert plan.figures["BatchNorm scales"]["threshold"] == pytest.approx(0.6)


def test_every_reason_is_given_with_its_own_count() -> None:
    plan = surgeon.plan(Parted(), METHOD, ["norm1"], example_input=IMAGES, preserve=True, threshold=3.0)
    (line,) = plan.skipped
    start, *reasons = re.split(r"(?=\d+ channels?: )", line)
    assert start == "norm1.weight: 5 weak scales are left alone. "
    assert sorted((reason[:10], "gelu" in reason, "sigmoid" in reason) for reason in reasons) == [
        ("2 channels", False, True), ("3 channels", True, False),
    ]  # fmt: skip


def test_preserve_lists_the_one_scale_of_a_densenet_that_only_batch_norms_read() -> None:
    model = torchvision.models.get_model("densenet121", weights=None)
    randomize(model, torch.Generator().manual_seed(3))
    plan = surgeon.plan(model, METHOD, preserve=True)
    assert len(plan.skipped) == 1
    assert plan.skipped[0].startswith("features.norm0.weight: ")


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.ReLU6()])
def test_preserve_leaves_alone_what_it_cannot_keep_and_says_why(act: nn.Module) -> None:
    plan = surgeon.plan(Chain(act), METHOD, example_input=IMAGES, preserve=True)
    assert not plan.edits
    assert any("norm1.weight: 2 weak" in line and "not positively homogeneous" in line for line in plan.skipped)


def test_a_scale_of_zero_has_no_factor() -> None:
    model = Chain()
    with torch.no_grad():
        model.norm1.weight[1] = 0
    plan = surgeon.plan(model, METHOD, example_input=IMAGES, preserve=True)
    assert "norm1.weight: 1 scales are left alone: they are zero, and no factor lifts zero." in plan.skipped
    surgeon.execute(model, plan)
    assert model.norm1.weight[1] == 0
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize(("most", "raised"), [(10.0, 0.09), (2.0, 0.018), (None, 0.3), (1000.0, 0.3)])
def test_scales_near_zero_are_lifted_as_far_as_asked(most: float | None, raised: float) -> None:
    model = Chain()
    plan = surgeon.plan(model, METHOD, ["norm2"], example_input=IMAGES, preserve=True, threshold=0.3, max_factor=most)
    surgeon.execute(model, plan)
    assert model.norm2.weight.tolist() == pytest.approx([raised, 1.0])
    assert bool(plan.skipped) == (raised < 0.3)


def test_one_factor_serves_a_whole_stream() -> None:
    model = torchvision.models.get_model("resnet18", weights=None)
    randomize(model, torch.Generator().manual_seed(0))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    largest = magnitudes(model).max()
    plan = surgeon.plan(model, METHOD, preserve=True)
    surgeon.execute(model, plan)
    after = model.state_dict()
    ratios = [after[f"layer2.{place}.weight"] / before[f"layer2.{place}.weight"] for place in ("0.bn2", "1.bn2")]
    torch.testing.assert_close(ratios[0], ratios[1])
    weakest = torch.minimum(before["layer2.0.bn2.weight"].abs(), before["layer2.1.bn2.weight"].abs())
    weakest = torch.minimum(weakest, before["layer2.0.downsample.1.weight"].abs())
    strongest = torch.maximum(before["layer2.0.bn2.weight"].abs(), before["layer2.1.bn2.weight"].abs())
    strongest = torch.maximum(strongest, before["layer2.0.downsample.1.weight"].abs())
    wanted = torch.minimum(plan.figures["BatchNorm scales"]["threshold"] / weakest, largest / strongest).clamp(min=1)
    assert int((wanted > 1).sum()) > 10
    torch.testing.assert_close(ratios[0].double(), wanted.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2_100", "efficientnet_b0", "tv:shufflenet_v2_x1_0"])
def test_the_rule_agrees_with_plain_loops_over_the_state_dict(name: str) -> None:
    build = torchvision.models.get_model if name.startswith("tv:") else timm.create_model
    model = build(name.removeprefix("tv:"))
    randomize(model, torch.Generator().manual_seed(5))
    agree_with_loops(model, {})


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_the_rule_agrees_with_plain_loops_on_shared_checkpoints(name: str) -> None:
    if not CHECKPOINTS.is_dir():
        pytest.skip("the shared CIFAR checkpoints are not beside the project")
    models = Path(__file__).resolve().parents[2] / "models/cifar_resnet.py"
    model = surgeon.load(next(CHECKPOINTS.glob(f"{name}-*.th")), f"{models}:{name}")
    agree_with_loops(model, {"example_input": torch.zeros(2, 3, 32, 32)})


def agree_with_loops(model: nn.Module, arguments: dict[str, torch.Tensor]) -> None:
    """Compare the executed plan with the paper's algorithm on the modules themselves."""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    collected = sorted(value for name in norms for value in expected[f"{name}.weight"].tolist())
    half = len(collected) // 2
    middle = collected[half] if len(collected) % 2 else (collected[half - 1] + collected[half]) / 2
    for name in norms:
        for index, value in enumerate(expected[f"{name}.weight"].tolist()):
            if value <= middle:
                expected[f"{name}.weight"][index] = middle
    surgeon.execute(model, surgeon.plan(model, METHOD, **arguments))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_networks_without_batch_norm_are_told_what_works() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(LayerError, match="no BatchNorm") as error:
        surgeon.plan(model, METHOD, example_input=IMAGES)
    assert "kernel-reactivation" in error.value.remedy


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0.0}, {"threshold": -1.0}, {"inhibited_only": 0.0}, {"every": 0}, {"max_factor": 1.0}]
    + [{name: value} for name in ("threshold", "inhibited_only", "max_factor") for value in (math.inf, math.nan)],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ChannelRegenerationConfig(**options)


def test_a_median_below_zero_is_refused() -> None:
    model = Chain()
    with torch.no_grad():
        model.norm1.weight.copy_(-model.norm1.weight.abs())
    with pytest.raises(OptionError, match="median"):
        surgeon.plan(model, METHOD, example_input=IMAGES)
