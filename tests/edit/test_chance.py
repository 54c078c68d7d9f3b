"""Networks that share an order of channels are told from those that only chance brings closer."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.coupling import CouplingGraph, trace
from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.chance import beats_chance, without_assigned
from surgeon.edit.matching import match
from surgeon.edit.permute import permute

Tensors = dict[str, Tensor]


def narrow() -> nn.Module:
    """Kernels of one value: 16 in a channel."""
    layers = [layer for _ in range(4) for layer in (nn.ReLU(), nn.Conv2d(16, 16, 1))]
    return nn.Sequential(nn.Conv2d(3, 16, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def separable(width: int = 24) -> nn.Module:
    """As in mobile networks: kernels of 9 values, and normalization with one."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 1, bias=False)]
    for _ in range(2):
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)).eval()


def lone() -> nn.Module:
    """One group, whose first tensor outweighs the second."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 32, bias=False), nn.ReLU(), nn.Linear(32, 1)).eval()


NETWORKS = (narrow, separable, lone)


def made(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def graph_of(model: nn.Module) -> CouplingGraph:
    return trace(model, torch.zeros(1, 3, 6, 6))


def copies(model: nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def permuted(model: nn.Module, groups: Iterable[ChannelGroup]) -> None:
    for group in groups:
        permute(model, group, torch.randperm(group.size))


def noisy(tensors: Tensors, noise: float) -> Tensors:
    return {
        name: tensor + noise * tensor.std(correction=0) * torch.randn(tensor.shape)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }


def trained(model: nn.Module, steps: int, rate: float = 0.05) -> nn.Module:
    """Train a network to tell in which quarter of an image the brightest spot is."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-3)
    model.train()
    for _ in range(steps):
        images, labels = 0.3 * torch.randn(32, 3, 6, 6), torch.randint(4, (32,))
        for quarter in range(4):
            top, left = 3 * (quarter // 2), 3 * (quarter % 2)
            images[labels == quarter, :, top : top + 2, left : left + 1 + quarter % 3] += 1
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("seed", range(4))
def test_networks_with_nothing_in_common_come_no_closer_than_by_chance(
    build: Callable[[], nn.Module], seed: int
) -> None:
    one, other = made(build, 2 * seed), made(build, 2 * seed + 1)
    first = copies(one)
    assert not beats_chance(match(graph_of(one).groups, first, copies(other)), first)


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("noise", [0.05, 0.2, 0.5])
def test_permuted_networks_with_noise_come_closer_than_by_chance(build: Callable[[], nn.Module], noise: float) -> None:
    model = made(build, 0)
    graph, first = graph_of(model), copies(model)
    permuted(model, graph.groups)
    assert beats_chance(match(graph.groups, first, noisy(copies(model), noise)), first)


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, CouplingGraph]:
    model = trained(made(separable, 0), 60)
    return model, graph_of(model)


def test_networks_that_are_trained_apart_come_no_closer_than_by_chance(
    learned: tuple[nn.Module, CouplingGraph],
) -> None:
    first = copies(learned[0])
    second = copies(trained(made(separable, 1), 60))
    assert not beats_chance(match(learned[1].groups, first, second), first)


def fine_tuned(first: Tensors, groups: Iterable[ChannelGroup]) -> Tensors:
    """Return the tensors of a network that was trained on with these groups permuted."""
    model = made(separable, 0)
    model.load_state_dict(first)
    permuted(model, groups)
    return copies(trained(model, 10))


def test_permuted_and_fine_tuned_networks_come_closer_than_by_chance(learned: tuple[nn.Module, CouplingGraph]) -> None:
    graph, first = learned[1], copies(learned[0])
    for groups in (graph.groups, graph.groups[:1]):
        second = fine_tuned(first, groups)
        matching = match(graph.groups, first, second)
        assert beats_chance(matching, first)
        moved = [one for one in graph.groups if not torch.equal(matching.orders[one], torch.arange(one.size))]
        assert moved == list(groups)


def test_what_is_drawn_anew_in_a_fine_tuned_network_is_not_found_again(
    learned: tuple[nn.Module, CouplingGraph],
) -> None:
    first = copies(learned[0])
    names = ("0.weight", "1.", "3.", "4.", "6.")
    second = fine_tuned(first, ())
    second.update({name: tensor for name, tensor in copies(made(separable, 5)).items() if name.startswith(names)})
    matching = match(learned[1].groups, first, second)
    assert any(not torch.equal(order, torch.arange(len(order))) for order in matching.orders.values())
    assert not beats_chance(matching, first)


def test_without_what_was_assigned_only_equal_channels_are_in_order() -> None:
    model = made(narrow, 0)
    graph, first = graph_of(model), copies(model)
    permuted(model, graph.groups)
    second = copies(model)
    other = copies(made(narrow, 1))
    # Of the first two layers alone the channels are the same.
    second.update({name: tensor for name, tensor in other.items() if not name.startswith(("0.", "2."))})
    full = match(graph.groups, first, second)
    matching = without_assigned(full)
    assert {one for one in graph.groups if one not in full.assigned} == set(full.found) != set()
    for group, order in matching.orders.items():
        assert torch.equal(order, full.orders[group] if group in full.found else torch.arange(group.size))
    assert torch.equal(matching.tensors["0.weight"], first["0.weight"])
    assert torch.equal(matching.tensors["8.weight"], second["8.weight"])
    model.load_state_dict(second)
    for group, order in matching.orders.items():
        permute(model, group, order)
    assert all(
        torch.equal(tensor, matching.tensors[name])
        for name, tensor in copies(model).items()
        if name in matching.tensors
    )
