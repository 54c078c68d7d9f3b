"""Neural rejuvenation in place: what starts anew, what stays bit for bit, and that nothing passes between them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.edit.execute import execute
from surgeon.errors import LayerError, OptionError
from surgeon.measure.utilization import shares_in_use, utilization
from surgeon.methods.base import Inputs
from surgeon.methods.neural_rejuvenation import (
    NeuralRejuvenationConfig,
    eligible,
    make_plan,
    sparsification,
)

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Chain(nn.Module):
    """Three convolutions with BatchNorm, the second depthwise behind the first, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.deep, self.norm_deep = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)
        self.two, self.norm_two = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm_one(self.one(images)).relu()
        features = self.norm_deep(self.deep(features)).relu()
        return self.head(self.norm_two(self.two(features)).relu().mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm_stem = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.one, self.norm_one = nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)
        self.two, self.norm_two = nn.Conv2d(5, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        stream = self.norm_stem(self.stem(images)).relu()
        inner = self.norm_one(self.one(stream)).relu()
        return self.head((stream + self.norm_two(self.two(inner))).relu().mean((2, 3)))


def network(kind: type[nn.Module]) -> nn.Module:
    """A network in double precision whose statistics and scales all differ."""
    torch.manual_seed(0)
    model = kind().double().eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


def inputs(model: nn.Module, *targets: str, **others: Any) -> Inputs:
    return Inputs(trace(model, EXAMPLE.double()), targets, model.state_dict(), 3, **others)


def kill(model: nn.Module, **channels: list[int]) -> None:
    """Let channels be dead and silent, as a penalty on the scales would with a shift that follows."""
    with torch.no_grad():
        for name, dead in channels.items():
            norm = model.get_submodule(name)
            norm.weight[dead] = 1e-4 * torch.arange(1, len(dead) + 1).double()
            norm.bias[dead] = 0.0
            norm.running_mean[dead] = 0.0


def test_dead_channels_start_anew_and_reach_no_other() -> None:
    model = network(Chain)
    kill(model, norm_one=[1, 4], norm_deep=[1, 4], norm_two=[0, 5, 7])
    before = copy.deepcopy(model)
    plan = make_plan(inputs(model), NeuralRejuvenationConfig())
    execute(model, plan)
    assert plan.figures == {
        "one": {"rejuvenated": 2, "channels": 6}, "two": {"rejuvenated": 3, "channels": 8},
    }  # fmt: skip
    new, old = [1, 4], [0, 2, 3, 5]
    later, sooner = [0, 5, 7], [1, 2, 3, 4, 6]
    two, then = model.two.weight.detach()[:, :, 0, 0], before.two.weight.detach()[:, :, 0, 0]
    assert torch.equal(two[sooner][:, old], then[sooner][:, old])
    assert not two[sooner][:, new].any()
    assert not two[later][:, old].any()
    assert two[later][:, new].all()
    assert not torch.equal(two[later][:, new], then[later][:, new])
    # Behind the image there is nothing new to read.
    assert model.one.weight[new].all()
    assert not torch.equal(model.one.weight[new], before.one.weight[new])
    assert torch.equal(model.one.weight[old], before.one.weight[old])
    assert model.deep.weight.all()
    assert not model.head.weight[:, later].any()
    assert torch.equal(model.head.weight[:, sooner], before.head.weight[:, sooner])
    for norm, places in (("norm_one", new), ("norm_deep", new), ("norm_two", later)):
        for key, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            assert model.state_dict()[f"{norm}.{key}"][places].tolist() == [value] * len(places)


def test_what_survives_computes_what_it_did_without_the_dead() -> None:
    model = network(Chain)
    kill(model, norm_one=[1, 4], norm_deep=[1, 4], norm_two=[0, 5, 7])
    with torch.no_grad():
        for norm in (model.norm_one, model.norm_deep, model.norm_two):
            norm.weight[norm.weight < 0.01] = 0.0
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        before = model(images)
        for rescale in (False, True):
            for cross in ("keep", "remove"):
                other = copy.deepcopy(model)
                execute(other, make_plan(inputs(model), NeuralRejuvenationConfig(cross=cross, rescale=rescale)))
                torch.testing.assert_close(other(images), before, rtol=1e-12, atol=1e-12)


def test_rescaling_raises_the_scales_of_survivors_and_keeps_their_signs() -> None:
    model = network(Chain)
    kill(model, norm_one=[1], norm_deep=[1])
    with torch.no_grad():
        model.norm_one.weight[2] = -0.25
        model.norm_deep.weight[3] = 0.125
    execute(model, make_plan(inputs(model), NeuralRejuvenationConfig(rescale=True, initial=0.5)))
    assert model.norm_one.weight.abs().min() >= 0.5 - 1e-12
    assert model.norm_one.weight[2].item() == pytest.approx(-0.5)
    assert model.norm_deep.weight[3].item() == pytest.approx(0.5)
    assert model.norm_one.weight[1].item() == model.norm_deep.weight[1].item() == 0.5


def test_residual_streams_take_part_only_where_it_is_asked_for() -> None:
    model = network(Residual)
    groups, skipped = eligible(inputs(model), NeuralRejuvenationConfig())
    assert [group.name for group in groups] == ["one"]
    assert len(skipped) == 1
    assert "several layers write them, as to a residual stream" in skipped[0]
    groups, _ = eligible(inputs(model), NeuralRejuvenationConfig(include_residual=True))
    assert {group.size for group in groups} == {4, 5}
    kill(model, norm_one=[0], norm_stem=[2])
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(include_residual=True))
    # One of two scales of a channel of the stream is alive.
    assert list(plan.figures) == ["one"]


def test_the_shares_in_use_are_those_of_the_utilization() -> None:
    model = network(Chain)
    kill(model, norm_one=[1, 4], norm_deep=[1, 4], norm_two=[0])
    graph: CouplingGraph = trace(model, EXAMPLE.double())
    tensors = model.state_dict(keep_vars=True)
    whole = utilization(graph, tensors)
    assert shares_in_use(graph, tensors) == (whole.parameter_share, whole.flop_share)
    # By hand: of 162 + 54 + 48 weights, 3·2·6 of norms and 36 of the classifier what the living carry.
    living = 4 * 27 + 4 * 9 + 4 * 7 + 2 * (4 + 4 + 7) + (4 * 7 + 4)
    assert whole.effective_parameters == living
    assert shares_in_use(graph, tensors)[0] == living / (162 + 54 + 48 + 2 * 20 + 36)


def test_bad_input() -> None:
    model = network(Chain)
    with pytest.raises(LayerError, match="14 of those that take part are alive") as error:
        make_plan(inputs(model), NeuralRejuvenationConfig())
    assert "sparsify=EPOCHS" in error.value.remedy
    with pytest.raises(LayerError, match="no BatchNorm scale"):
        make_plan(Inputs(trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), EXAMPLE), (), {
            "0.weight": torch.ones(4, 3, 1, 1), "2.weight": torch.ones(2, 4, 1, 1),
        }), NeuralRejuvenationConfig())  # fmt: skip
    with pytest.raises(LayerError, match=r"one\.weight is frozen"):
        make_plan(inputs(model, "one", frozen={"one.weight"}), NeuralRejuvenationConfig())
    kill(model, norm_two=list(range(8)))
    with torch.no_grad():
        model.norm_two.weight.zero_()
    with pytest.raises(LayerError, match="none of its channels is alive"):
        make_plan(inputs(model, "two"), NeuralRejuvenationConfig())
    for name, value in (("initial", 0.0), ("sparsify", -1), ("n", 0), ("below", 1.0), ("delta_r", 0.0), ("n", 2)):
        with pytest.raises(OptionError, match=f"The option {name} of neural-rejuvenation"):
            NeuralRejuvenationConfig(**{name: value})
    with pytest.raises(OptionError, match="delta_lambda"):
        NeuralRejuvenationConfig(delta_lambda=0.0)


def test_only_scales_that_take_part_are_penalized() -> None:
    rule = sparsification(inputs(network(Residual)), NeuralRejuvenationConfig(sparsify=5))
    assert rule is not None
    assert rule.scales == {"norm_one.weight"}
    assert sparsification(inputs(network(Residual)), NeuralRejuvenationConfig()) is None
