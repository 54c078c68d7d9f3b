"""Neural rejuvenation in place: what starts anew, what stays bit for bit, and that nothing passes between them."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.coupling import CouplingGraph, trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Set
from surgeon.errors import LayerError, OptionError
from surgeon.measure.bn import recalibrate
from surgeon.measure.utilization import dead_groups, shares_in_use, utilization
from surgeon.methods.base import Inputs
from surgeon.methods.neural_rejuvenation import (
    NeuralRejuvenationConfig,
    make_plan,
    sparsification,
)
from surgeon.methods.rejuvenable import dead_channels_of, eligible
from surgeon.operate.holding import masks_of

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


def network(kind: Callable[[], nn.Module]) -> nn.Module:
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
    groups, skipped = eligible(inputs(model), residual=False)
    assert [group.name for group in groups] == ["one"]
    assert len(skipped) == 1
    assert "several layers write them, as to a residual stream" in skipped[0]
    groups, _ = eligible(inputs(model), residual=True)
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
    dead = dead_groups(graph, tensors)
    assert shares_in_use(graph, tensors, dead) == (whole.parameter_share, whole.flop_share)
    # By hand: of 162 + 54 + 48 weights, 3·2·6 of norms and 36 of the classifier what the living carry.
    living = 4 * 27 + 4 * 9 + 4 * 7 + 2 * (4 + 4 + 7) + (4 * 7 + 4)
    assert whole.effective_parameters == living
    assert shares_in_use(graph, tensors, dead)[0] == living / (162 + 54 + 48 + 2 * 20 + 36)
    # Without the last layer's dead channel, whose columns come back.
    del dead[next(group for group in dead if group.size == 8)]
    living = 4 * 27 + 4 * 9 + 4 * 8 + 2 * (4 + 4 + 8) + 36
    assert shares_in_use(graph, tensors, dead)[0] == living / (162 + 54 + 48 + 2 * 20 + 36)
    assert shares_in_use(graph, tensors, {}) == (1, 1)


def test_bad_input() -> None:
    model = network(Chain)
    with pytest.raises(LayerError, match="of the 14 that take part none is dead") as error:
        make_plan(inputs(model), NeuralRejuvenationConfig())
    assert "sparsify=EPOCHS" in error.value.remedy
    with pytest.raises(LayerError, match="no BatchNorm with scales"):
        make_plan(Inputs(trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), EXAMPLE), (), {
            "0.weight": torch.ones(4, 3, 1, 1), "2.weight": torch.ones(2, 4, 1, 1),
        }), NeuralRejuvenationConfig())  # fmt: skip
    with pytest.raises(LayerError, match=r"one\.weight is frozen"):
        make_plan(inputs(model, "one", frozen={"one.weight"}), NeuralRejuvenationConfig())
    kill(model, norm_two=list(range(8)))
    with torch.no_grad():
        model.norm_two.weight.zero_()
    with pytest.raises(LayerError, match="has no living one"):
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


class Excited(nn.Module):
    """A squeeze-excitation gate on what the first convolution writes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.two, self.norm_two = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.silu(self.norm_one(self.one(images)))
        features = features * self.excite(self.squeeze(features.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(self.norm_two(self.two(features)).relu().mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions, one of them transposed, beside a branch that is concatenated, and a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two, self.norm_two = nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)
        self.three, self.norm_three = nn.ConvTranspose2d(8, 4, 2, groups=2, bias=False), nn.BatchNorm2d(4)
        self.side, self.norm_side = nn.Conv2d(3, 4, 4, bias=False), nn.BatchNorm2d(4)
        self.last, self.norm_last = nn.Conv2d(8, 5, 2, bias=False), nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * 16, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm_two(self.two(self.norm_one(self.one(images)).relu())).relu()
        features = self.norm_three(self.three(features)).relu()
        both = torch.cat([features, self.norm_side(self.side(images)).relu()], 1)
        return self.head(self.norm_last(self.last(both)).relu().flatten(1))


DEAD: dict[type[nn.Module], dict[str, list[int]]] = {
    Chain: {"norm_one": [1, 4], "norm_deep": [1, 4], "norm_two": [0, 5, 7]},
    Excited: {"norm_one": [0, 5], "norm_two": [1, 2]},
    # All that the first group of the second convolution reads and much of what it writes.
    Grouped: {
        "norm_one": [0, 1, 2], "norm_two": [0, 1, 2, 3, 6], "norm_three": [0], "norm_side": [1, 3], "norm_last": [2],
    },
    Residual: {"norm_one": [0, 3], "norm_stem": [2], "norm_two": [2]},
}  # fmt: skip

NEW: dict[type[nn.Module], dict[str, int]] = {
    Chain: {"one": 2, "two": 3},
    Excited: {"one": 2, "two": 2},
    Grouped: {"one": 3, "two": 5, "three": 1, "side": 2, "last": 1},
    Residual: {"stem": 1, "one": 2},
}


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("cross", ["keep", "remove"])
def test_nothing_rejuvenated_reaches_the_output_and_all_of_it_can_learn_to(kind: type[nn.Module], cross: str) -> None:
    model = network(kind)
    kill(model, **DEAD[kind])
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(cross=cross, include_residual=True))
    execute(model, plan)
    assert {name: row["rejuvenated"] for name, row in plan.figures.items()} == NEW[kind]
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        before = model(images)
        for name, channels in DEAD[kind].items():
            norm = model.get_submodule(name)
            norm.weight[channels] *= 1.5
            norm.bias[channels] += 0.25
        torch.testing.assert_close(model(images), before, rtol=1e-12, atol=1e-12)
    held = masks_of([edit for edit in plan.edits if isinstance(edit, Set) and edit.held], model)
    assert bool(held) == (cross == "remove")
    # The first step moves the columns that read new channels, and the next ones whatever is before those.
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    learns = dict.fromkeys(DEAD[kind], False)
    for _ in range(4):
        optimizer.zero_grad()
        model(images).square().sum().backward()
        for key, mask in held.items():
            model.get_parameter(key).grad[mask] = 0.0
        for name, channels in DEAD[kind].items():
            learns[name] |= bool(model.get_submodule(name).weight.grad[channels].all())
        optimizer.step()
    assert all(learns.values())


def test_zeros_are_held_only_where_both_kinds_are_read_and_new_ones_written() -> None:
    model = network(Chain)
    kill(model, **DEAD[Chain])
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(cross="remove"))
    zeros = {edit.tensor: edit.held for edit in plan.edits if isinstance(edit, Set)}
    # The first layer reads the image alone, and the classifier writes no channel.
    assert zeros == {"two.weight": True, "head.weight": False}
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(cross="keep"))
    assert not any(edit.held for edit in plan.edits if isinstance(edit, Set))


def test_every_group_of_a_grouped_convolution_is_looked_at_by_itself() -> None:
    model = network(Grouped)
    kill(model, **DEAD[Grouped])
    with torch.no_grad():
        model.norm_three.weight[2] = 1e-5
    before = copy.deepcopy(model)
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(cross="remove"))
    execute(model, plan)
    assert plan.figures["two"] == {"rejuvenated": 5, "channels": 8}
    assert plan.figures["three"] == {"rejuvenated": 2, "channels": 4}
    two, three = model.two.weight, model.three.weight
    # The first group reads new channels alone, the second old ones alone.
    assert two[:4].all()
    assert torch.equal(two[[4, 5, 7]], before.two.weight[[4, 5, 7]])
    assert two[6].all()
    # Transposed: rows read. The first group reads new channels alone: its old filter is cut off, to learn anew.
    assert three[:4, 0].all()
    assert not three[:4, 1].any()
    # In the second, of rows 4 to 7, one is new, and so is filter 0.
    assert three[6, 0].all()
    assert not three[[4, 5, 7], 0].any()
    assert not three[6, 1].any()
    assert torch.equal(three[[4, 5, 7], 1], before.three.weight[[4, 5, 7], 1])
    held = masks_of([edit for edit in plan.edits if isinstance(edit, Set) and edit.held], model)
    assert not held["three.weight"][:4].any()
    assert held["three.weight"][4:].sum() == 4 * 4
    assert "two.weight" not in held


def test_a_new_channel_of_a_grouped_transposed_convolution_that_reads_no_new_one_reads_the_old_ones() -> None:
    model = network(Grouped)
    kill(model, norm_two=[6], norm_three=[0])
    execute(model, make_plan(inputs(model), NeuralRejuvenationConfig()))
    assert model.three.weight[:4, 0].all()


def test_a_layer_without_a_living_channel_is_left_alone_as_a_whole() -> None:
    model = network(Grouped)
    with torch.no_grad():
        model.norm_two.weight.zero_()
        model.norm_side.weight[0] = 0.0
    before = copy.deepcopy(model)
    plan = make_plan(inputs(model), NeuralRejuvenationConfig())
    execute(model, plan)
    assert torch.equal(model.two.weight, before.two.weight)
    assert sum("no living one" in text for text in plan.skipped) == 2
    graph = trace(model, EXAMPLE.double())
    groups, _ = eligible(inputs(model), residual=False)
    assert dead_channels_of(graph, model.state_dict(), groups)[0] == {}


def test_the_shift_of_a_dead_channel_is_lost_and_measuring_the_statistics_anew_absorbs_it() -> None:
    model = network(Chain)
    # Behind the last norm there is none that could.
    dead = {"norm_one": [1, 4], "norm_deep": [1, 4]}
    with torch.no_grad():
        for name, channels in dead.items():
            norm = model.get_submodule(name)
            norm.weight[channels], norm.bias[channels] = 0.0, 0.75
    other = copy.deepcopy(model)
    execute(other, make_plan(inputs(model), NeuralRejuvenationConfig()))
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        assert not torch.allclose(other(images), model(images), rtol=1e-2)
        silent = copy.deepcopy(model)
        for name, channels in dead.items():
            silent.get_submodule(name).bias[channels] = 0.0
        torch.testing.assert_close(other(images), silent(images), rtol=1e-12, atol=1e-12)
        for one in (model, other):
            recalibrate(one, [(images, torch.zeros(6, dtype=torch.int64))], device=torch.device("cpu"))
        torch.testing.assert_close(other(images), model(images), rtol=1e-5, atol=1e-5)


class Doubtful(nn.Module):
    """A convolution with BatchNorm, and what a scale of it does not decide alone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.one, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.other = nn.Conv2d(3, 4, 1)
        self.joined = nn.BatchNorm2d(8)
        self.two, self.raw = nn.Conv2d(8 if how == "joined" else 4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.one(images)
        features = self.norm(first)
        if self.how == "raw":
            return self.two(features.relu()) + self.raw(first.relu())
        if self.how == "added":
            features = features + self.other(images)
        if self.how == "joined":
            features = self.joined(torch.cat([features, self.other(images)], 1))
        if self.how == "softmax":
            features = features.softmax(1)
        if self.how == "unread":
            return self.two(self.other(images)) * features.mean()
        return self.two(features)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raw", "not right behind a layer that writes them alone"),
        ("added", "no BatchNorm scale right behind other.weight"),
        ("joined", "not right behind a layer that writes them alone"),
        ("softmax", "may let them meet"),
        ("unread", "no layer reads them"),
    ],
)
def test_channels_whose_scale_proves_nothing_are_left_alone(how: str, why: str) -> None:
    model = network(lambda: Doubtful(how))
    with pytest.raises(LayerError, match=why):
        eligible(inputs(model, "one"), residual=True)
    assert eligible(inputs(network(lambda: Doubtful("plain")), "one"), residual=False)[0]


def test_a_norm_takes_part_with_all_of_its_channels_or_none() -> None:
    model = network(Grouped)
    given = inputs(model)
    halves = [group for group in given.graph.groups if group.name == "two"]
    assert len(halves) == 2
    alone = dataclasses.replace(given, left_alone={halves[0]: "of an earlier target"})
    groups, skipped = eligible(alone, residual=False)
    assert "two" not in {group.name for group in groups}
    assert "two: its channels are left alone: some channels of the same BatchNorm cannot take part." in skipped
    rule = sparsification(alone, NeuralRejuvenationConfig(sparsify=1))
    assert rule is not None
    assert "norm_two.weight" not in rule.scales


def test_gates_are_no_residual_streams() -> None:
    groups, skipped = eligible(inputs(network(Excited)), residual=False)
    assert [group.name for group in groups] == ["one", "two"]
    assert len(skipped) == 1
    assert "squeeze.weight tells which are dead" in skipped[0]


def test_ordinary_grouped_convolutions_are_not_depthwise() -> None:
    class Wide(nn.Module):
        """Two grouped convolutions with as many inputs a group as there are groups, added."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm_one = nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.BatchNorm2d(4)
            self.two, self.norm_two = nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            images = torch.cat([images, images[:, :1]], 1)
            both = self.norm_one(self.one(images)) + self.norm_two(self.two(images))
            return self.head(both.relu().mean((2, 3)))

    with pytest.raises(LayerError, match="several layers write them"):
        eligible(inputs(network(Wide)), residual=False)


def test_scales_that_rescaling_cannot_raise_are_told() -> None:
    model = network(Excited)
    kill(model, norm_two=[0])
    plan = make_plan(inputs(model), NeuralRejuvenationConfig(rescale=True, initial=2.0))
    assert any(text.startswith("norm_one.weight: 6 weak scales are left alone.") for text in plan.skipped)
    assert not any(text.startswith("norm_two.weight") for text in plan.skipped)


def test_a_plan_before_channels_have_died_says_when_they_do() -> None:
    with pytest.raises(LayerError, match="none is dead") as error:
        make_plan(inputs(network(Chain)), NeuralRejuvenationConfig(sparsify=3))
    assert "die during the fine-tuning" in error.value.remedy
