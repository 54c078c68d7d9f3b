"""The order of channels in which two networks are closest: found exactly where there is one, and well where not."""

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
from nets import NETWORKS
from torch import Tensor, nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.matching import Matching, match
from surgeon.edit.permute import permute

Tensors = dict[str, Tensor]

PATTERNS = (
    "FusedAttention", "GroupedQueryAttention", "RelativePositionBias", "TokenMixing", "Grouped", "Depthwise",
    "DepthwiseMultiplier", "TransposedGrouped", "SqueezeExcite", "GroupNorm", "WeightNorm", "Tied", "TiedTransposed",
    "LayerScale", "Residual", "ZeroPaddedShortcut", "DenseConcat", "CatTwice", "CatShuffled", "Split",
    "StackInterleave", "ChannelShuffle", "PixelShuffle", "FlattenLinear", "FoldedPatches", "FlippedChannels",
    "GatedRecurrent",
)  # fmt: skip
"""Of the hand-made networks those whose tensors carry their channels in different ways."""


def randomized(model: nn.Module, seed: int = 0) -> Tensors:
    """Give every floating-point tensor of a network random values, and return copies."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return copies(model)


def copies(model: nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def shuffled(model: nn.Module, graph: CouplingGraph, seed: int = 1) -> dict[ChannelGroup, Tensor]:
    """Permute every group of a network at random, and return the permutations."""
    generator = torch.Generator().manual_seed(seed)
    orders = {group: torch.randperm(group.size, generator=generator) for group in graph.groups}
    for group, order in orders.items():
        permute(model, group, order)
    return orders


def differing(first: Tensors, matching: Matching) -> list[str]:
    return [name for name, tensor in matching.tensors.items() if not torch.equal(tensor, first[name])]


@pytest.mark.parametrize("name", PATTERNS)
def test_every_coupling_pattern_is_put_back_in_order(name: str) -> None:
    network = NETWORKS[name]
    model = network.build().eval()
    graph = trace(model, network.inputs())
    first = randomized(model)
    shuffled(model, graph)
    matching = match(graph.groups, first, copies(model))
    assert set(matching.orders) == set(graph.groups)
    assert differing(first, matching) == []


def made(name: str) -> tuple[nn.Module, CouplingGraph]:
    model = timm.create_model(name).eval()
    return model, trace(model, torch.zeros(1, *model.pretrained_cfg["input_size"]))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_byobnet"])
def test_whole_networks_are_put_back_in_order(name: str) -> None:
    model, graph = made(name)
    first = randomized(model)
    orders = shuffled(model, graph)
    matching = match(graph.groups, first, copies(model))
    assert differing(first, matching) == []
    assert all(torch.equal(order[matching.orders[group]], torch.arange(group.size)) for group, order in orders.items())


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, CouplingGraph]:
    return made("test_resnet")


def test_tensors_that_are_all_a_little_different_are_put_back_in_order(
    residual: tuple[nn.Module, CouplingGraph],
) -> None:
    model, graph = residual
    first = randomized(model)
    orders = shuffled(model, graph)
    generator = torch.Generator().manual_seed(2)
    second = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in copies(model).items()
    }
    matching = match(graph.groups, first, second)
    assert all(torch.equal(order[matching.orders[group]], torch.arange(group.size)) for group, order in orders.items())


def test_networks_that_share_nothing_but_a_few_tensors_are_put_back_in_order(
    residual: tuple[nn.Module, CouplingGraph],
) -> None:
    model, graph = residual
    first = randomized(model)
    orders = shuffled(model, graph)
    second = copies(model)
    changed = [name for name in second if "running" in name or name.endswith("conv1.weight")]
    generator = torch.Generator().manual_seed(2)
    for name in changed:
        second[name] = 3 * torch.randn(second[name].shape, generator=generator)
    matching = match(graph.groups, first, second)
    assert all(torch.equal(order[matching.orders[group]], torch.arange(group.size)) for group, order in orders.items())
    assert set(differing(first, matching)) == set(changed) & set(matching.tensors)


def kill(first: Tensors, group: ChannelGroup, channels: Tensor, value: Callable[[Tensor], Tensor]) -> None:
    for member in group.members:
        view = first[member.tensor] if member.rows is None else first[member.rows]
        places = member.positions[channels].flatten()
        view.index_copy_(member.dim, places, value(view.index_select(member.dim, places)))


@pytest.mark.parametrize(
    ("value", "unique"),
    [(torch.zeros_like, False), (lambda x: x * 1e-40, True), (lambda x: torch.full_like(x, torch.nan), False)],
    ids=["zero", "almost zero", "not a number"],
)
def test_dead_channels_do_not_matter(
    residual: tuple[nn.Module, CouplingGraph], value: Callable[[Tensor], Tensor], unique: bool
) -> None:
    model, graph = residual
    first = randomized(model)
    for group in graph.groups:
        kill(first, group, torch.arange(0, group.size, 3), value)
    model.load_state_dict(first)
    orders = shuffled(model, graph)
    matching = match(graph.groups, first, copies(model))
    assert all(
        torch.equal(tensor.nan_to_num(7.0), first[name].nan_to_num(7.0)) for name, tensor in matching.tensors.items()
    )
    if unique:
        assert all(torch.equal(order[matching.orders[one]], torch.arange(one.size)) for one, order in orders.items())


class Two(nn.Module):
    """Two layers, and 4 and 5 channels between them and their neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(torch.relu(self.one(x)))))


def test_channels_that_only_their_partners_tell_apart_are_paired_with_them() -> None:
    # Channel c of the first layer feeds channel c of the second and nothing else tells the channels apart.
    model = Two()
    first = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    first["two.weight"] = torch.eye(5)[:, :4].clone()
    model.load_state_dict(first)
    graph = trace(model, torch.zeros(1, 3))
    shuffled(model, graph)
    assert not torch.equal(model.two.weight, first["two.weight"])
    assert differing(first, match(graph.groups, first, copies(model))) == []


def weighted_distance(first: Tensors, second: Tensors, group: ChannelGroup) -> float:
    """The sum that an order makes least, written down anew in float64."""
    total = 0.0
    for member in group.members:
        one, other = (side[member.tensor].double().movedim(member.dim, 0).flatten(1) if side[member.tensor].dim() > 1
                      else side[member.tensor].double()[:, None] for side in (first, second))  # fmt: skip
        for a, b in zip(one, other, strict=True):
            total += one.shape[1] ** 0.5 * float((a - b).square().sum() / (a.square().sum() + b.square().sum()))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_one_group_comes_closer(seed: int) -> None:
    model = Two()
    graph = trace(model, torch.zeros(1, 3))
    first, second = randomized(model, 2 * seed), randomized(model, 2 * seed + 1)
    matching = match(graph.groups, first, second)
    found = dict(second) | matching.tensors
    for group in graph.groups:
        reached = weighted_distance(first, found, group)
        for order in itertools.permutations(range(group.size)):
            model.load_state_dict(found)
            permute(model, group, order)
            assert reached <= weighted_distance(first, copies(model), group) + 1e-4


def test_the_second_network_stays_as_it_is_and_what_cannot_be_compared_is_passed_over() -> None:
    model = Two()
    graph = trace(model, torch.zeros(1, 3))
    first = randomized(model)
    shuffled(model, graph)
    second = copies(model)
    second["three.weight"] = torch.ones(7, 5)
    del second["one.bias"]
    before = {name: tensor.clone() for name, tensor in second.items()}
    matching = match(graph.groups, first, second)
    assert differing(first, matching) == []
    assert set(matching.tensors) == {"one.weight", "two.weight", "two.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in second.items())
    assert match(graph.groups, {}, second).orders == {}
