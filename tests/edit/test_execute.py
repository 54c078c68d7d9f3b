"""Edits on small networks, against values worked by hand and against plain permutation."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

import surgeon
from surgeon.coupling import Member
from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.execute import execute
from surgeon.edit.plan import PIECE, Edit, Mix, Plan, Reinitialize, Reorder, Set
from surgeon.errors import PlanError


class Small(nn.Module):
    """conv → BatchNorm → ReLU → grouped conv → flatten → linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.last = nn.Linear(6 * 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.first(images)).relu()
        return self.last(self.grouped(hidden).relu().flatten(1))


def plan_of(*edits: Edit) -> Plan:
    return Plan("test", {}, (), edits)


@pytest.fixture
def network() -> Small:
    generator = torch.Generator().manual_seed(3)
    model = Small().double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), model.norm.running_mean, model.norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 2, 2, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def groups_by_name(model: nn.Module, images: torch.Tensor) -> dict[str, list[ChannelGroup]]:
    found: dict[str, list[ChannelGroup]] = {}
    for group in surgeon.trace(model, images).groups:
        found.setdefault(group.name, []).append(group)
    return found


def test_reorder_is_permute_and_inverse_is_bitwise_identity(network: Small, images: torch.Tensor) -> None:
    before = copy.deepcopy(network.state_dict())
    for group in groups_by_name(network, images)["grouped"]:
        order = torch.arange(group.size).roll(1)
        other = copy.deepcopy(network)
        execute(network, plan_of(Reorder(group, order)))
        surgeon.permute(other, group, order)
        assert all(torch.equal(network.state_dict()[key], value) for key, value in other.state_dict().items())
        execute(network, plan_of(Reorder(group, order.argsort())))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_mix_by_hand(network: Small, images: torch.Tensor) -> None:
    # Channels 0 and 1 are read by the first convolution group, rows 0-2 of `grouped`.
    group = groups_by_name(network, images)["first"][0]
    before = copy.deepcopy(network.state_dict())
    producers = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    consumers = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    execute(network, plan_of(Mix(group, torch.tensor([1]), producers, consumers)))
    after = network.state_dict()
    for key in ("first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        old = before[key]
        torch.testing.assert_close(after[key][1], 0.25 * old[0] + 0.75 * old[1], rtol=1e-12, atol=0)
        assert torch.equal(after[key][[0, 2, 3]], old[[0, 2, 3]])
    old = before["grouped.weight"]
    torch.testing.assert_close(after["grouped.weight"][:3, 1], old[:3, 0] + 0.5 * old[:3, 1], rtol=1e-12, atol=0)
    assert torch.equal(after["grouped.weight"][:3, 0], old[:3, 0])
    assert torch.equal(after["grouped.weight"][3:], old[3:])


def test_mix_carries_every_repeat_of_a_flattened_channel(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["grouped"][1]
    before = network.last.weight.detach().clone().view(3, 6, 4)
    half = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    execute(network, plan_of(Mix(group, torch.tensor([2]), half, half)))
    after = network.last.weight.detach().view(3, 6, 4)
    torch.testing.assert_close(after[:, 5], (before[:, 3] + before[:, 4]) / 2, rtol=1e-12, atol=0)
    assert torch.equal(after[:, :5], before[:, :5])


def test_a_folded_mix_averages_the_affine_map_of_convolution_and_norm(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["first"][0]
    with torch.no_grad():
        network.norm.weight[1] *= -1

    def affine(model: Small) -> torch.Tensor:
        return model.norm(model.first(images))[:, :2]

    before = affine(network)
    producers = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    execute(network, plan_of(Mix(group, torch.tensor([0]), producers, producers, folded=True)))
    torch.testing.assert_close(affine(network)[:, 0], 0.25 * before[:, 0] + 0.75 * before[:, 1], rtol=1e-10, atol=1e-12)


def test_a_folded_mix_of_dead_channels_is_finite(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["first"][0]
    with torch.no_grad():
        network.norm.weight[:2] = 0
    beta = network.norm.bias.detach().clone()
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    execute(network, plan_of(Mix(group, torch.tensor([0]), half, half, folded=True)))
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    assert network.norm.weight[0] == 0
    torch.testing.assert_close(network.norm.bias[0], (beta[0] + beta[1]) / 2)


@pytest.mark.parametrize("consumers", ["random", "zero", "keep"])
def test_reinitialize(network: Small, images: torch.Tensor, consumers: Literal["random", "zero", "keep"]) -> None:
    group = groups_by_name(network, images)["first"][1]
    before = copy.deepcopy(network.state_dict())
    edit = Reinitialize(group, torch.tensor([1]), consumers, seed=7)
    execute(network, plan_of(edit))
    after = network.state_dict()
    # PyTorch starts a convolution with values in ±1/√fan-in; channel 1 of this group is row 3.
    assert bool((after["first.weight"][3].abs() <= (2 * 9) ** -0.5).all())
    assert not torch.equal(after["first.weight"][3], before["first.weight"][3])
    assert torch.equal(after["first.weight"][:3], before["first.weight"][:3])
    assert [after[f"norm.{name}"][3].item() for name in ("weight", "bias", "running_mean", "running_var")] == [
        1,
        0,
        0,
        1,
    ]
    column, old = after["grouped.weight"][3:, 1], before["grouped.weight"][3:, 1]
    if consumers == "zero":
        assert bool((column == 0).all())
    else:
        assert torch.equal(column, old) == (consumers == "keep")
    assert torch.equal(after["grouped.weight"][:3], before["grouped.weight"][:3])


def test_the_seed_alone_decides_new_values(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["first"][0]
    states = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        position = torch.get_rng_state()
        model = copy.deepcopy(network)
        execute(model, plan_of(Reinitialize(group, torch.tensor([0]), "random", seed=5)))
        assert torch.equal(torch.get_rng_state(), position)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    execute(network, plan_of(Reinitialize(group, torch.tensor([0]), "random", seed=6)))
    assert not torch.equal(network.first.weight[0], states[0]["first.weight"][0])


@pytest.mark.parametrize(
    ("tensor", "dim", "position", "word"),
    [
        ("missing.weight", 0, 0, "does not have"),
        ("first.weight", 7, 0, "has 4 axes"),
        ("first.weight", 0, 9, "do not exist"),
    ],
)
def test_a_foreign_plan_changes_nothing(
    network: Small, images: torch.Tensor, tensor: str, dim: int, position: int, word: str
) -> None:
    good = groups_by_name(network, images)["first"][0]
    member = Member(tensor, dim, "producer", torch.tensor([[0], [position]]))
    foreign = ChannelGroup("foreign", 2, (member,), homogeneous=True)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(PlanError, match=word):
        execute(network, plan_of(Reorder(good, torch.tensor([1, 0])), Reorder(foreign, torch.tensor([1, 0]))))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_permute_refuses_what_is_no_permutation(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["first"][0]
    with pytest.raises(PlanError, match="each of its 2 channels once"):
        surgeon.permute(network, group, [0, 0])


def test_changes_name_tensors_rows_and_positions(network: Small, images: torch.Tensor) -> None:
    group = groups_by_name(network, images)["first"][1]
    rows = {
        (c.tensor, c.dim): (c.what, c.positions.tolist(), c.rows)
        for c in plan_of(Reinitialize(group, torch.tensor([1]), "zero", 0)).changes()
    }
    assert rows["first.weight", 0] == ("re-initialized", [3], None)
    assert rows["grouped.weight", 1] == ("set to zero", [1], slice(3, 6))


class Split(nn.Module):
    """A BatchNorm whose channels are cut in two, multiplied and read: every group has two rows of the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.glu(self.norm(self.conv(images)), 1))


class SharedNorm(nn.Module):
    """Two convolutions with biases in front of one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last((self.norm(self.one(images)) + self.norm(self.two(images))).relu())


class Transposed(nn.Module):
    """A transposed convolution, whose second axis writes the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(2, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.conv(images)).relu())


class Depthwise(nn.Module):
    """The hidden part of an inverted residual."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.depthwise, self.norm2 = nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.expand(images)).relu()
        return self.last(self.norm2(self.depthwise(hidden)).relu())


@pytest.mark.parametrize("kind", [Split, SharedNorm, Transposed, Depthwise])
def test_a_folded_identity_changes_nothing(kind: type[nn.Module]) -> None:
    generator = torch.Generator().manual_seed(1)
    model = kind().double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(values.abs() + 0.2 if name.endswith("running_var") else values)
    images = torch.randn(2, 2, 5, 5, generator=generator, dtype=torch.float64)
    before = model(images)
    groups = surgeon.trace(model, images).groups
    assert groups
    for group in groups:
        one = torch.eye(group.size, dtype=torch.float64)
        execute(model, plan_of(Mix(group, torch.arange(group.size), one, one, folded=True)))
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-12)


def test_merging_equal_depthwise_channels_keeps_the_function() -> None:
    generator = torch.Generator().manual_seed(2)
    model = Depthwise().double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), model.norm2.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        # Channel 1 carries what channel 0 carries: the same expansion, twice the kernel, half the scale.
        for tensor in (model.expand.weight, model.expand.bias, model.norm.weight, model.norm.bias, model.norm2.bias):
            tensor[1] = tensor[0]
        model.depthwise.weight[1] = 2 * model.depthwise.weight[0]
        model.depthwise.bias[1] = 2 * model.depthwise.bias[0]
        model.norm2.running_mean[1] = 2 * model.norm2.running_mean[0]
        model.norm2.weight[1] = model.norm2.weight[0] / 2
    images = torch.randn(2, 2, 5, 5, generator=generator, dtype=torch.float64)
    before = model(images)
    (group,) = surgeon.trace(model, images).groups
    half = torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64)
    both = torch.tensor([[1.0, 1.0, 0, 0]], dtype=torch.float64)
    new = Reinitialize(group, torch.tensor([1]), "zero", 0)
    execute(model, plan_of(Mix(group, torch.tensor([0]), half, both, folded=True), new))
    torch.testing.assert_close(model(images), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_blocks_get_their_values_by_hand(layout: torch.memory_format, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, (1, 2))).to(memory_format=layout)
    before = model[0].weight.detach().clone()
    values = torch.arange(1.0, 5, dtype=torch.float64)
    execute(model, plan_of(Set("0.weight", torch.tensor([4, 1], dtype=dtype), values, "set", 4, block_size=2)))
    expected = before.clone(memory_format=torch.contiguous_format)
    # Block 4 is kernel 0 of filter 2, and block 1 is kernel 1 of filter 0.
    expected[2, 0, 0], expected[0, 1, 0] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert torch.equal(model[0].weight, expected)
    execute(
        model, plan_of(Set("0.weight", torch.tensor([1], dtype=dtype), torch.tensor([7.0]), "set", 4, block_size=4))
    )
    expected[1] = 7
    assert torch.equal(model[0].weight, expected)


@pytest.mark.parametrize("block_size", [1, 9, 36, 2 * PIECE])
def test_blocks_of_any_size_are_their_entries(block_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 3 * PIECE // block_size + 5
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2 * count, block_size))
    blocks = torch.randperm(2 * count, generator=generator)[:count]
    values = torch.rand(count, block_size, generator=generator)
    expected = torch.zeros(2 * count, block_size)
    expected[blocks] = values
    edit = Set("weight", blocks, values.flatten(), "set", block_size, block_size=block_size)
    assert edit.count == values.numel()
    assert torch.equal(expected.flatten()[edit.entries], edit.values)
    execute(model, plan_of(edit))
    assert torch.equal(model.weight, expected)


@pytest.mark.parametrize(
    ("blocks", "values", "block_size"),
    [([0, 2], 12, 6), ([0], 8, 8), ([0, 1], 3, 2), ([0, 0], 4, 2), ([-1], 2, 2), ([0], 0, 2)],
    ids=["beyond the end", "no divisor", "too few values", "twice", "negative", "no value"],
)
def test_blocks_that_do_not_fit_change_nothing(blocks: list[int], values: int, block_size: int) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, (1, 2)))
    before = model[0].weight.detach().clone()
    edit = Set("0.weight", torch.tensor(blocks), torch.zeros(values), "set", block_size, block_size=block_size)
    with pytest.raises(PlanError, match="do not fit its shape"):
        execute(model, plan_of(edit))
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("bad", ["permutation", "matrix", "channels"])
def test_an_edit_that_does_not_fit_changes_nothing(network: Small, images: torch.Tensor, bad: str) -> None:
    group = groups_by_name(network, images)["first"][0]
    good = Reorder(group, torch.tensor([1, 0]))
    wrong = {
        "permutation": Reorder(group, torch.tensor([0, 0])),
        "matrix": Mix(group, torch.tensor([0]), torch.ones(1, 3).double(), torch.ones(1, 3).double()),
        "channels": Reinitialize(group, torch.tensor([2]), "zero", 0),
    }
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(PlanError):
        execute(network, plan_of(good, wrong[bad]))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
