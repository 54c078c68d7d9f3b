"""Random small networks: whatever the operations, permuting every group changes nothing."""

import pytest
import torch
from random_networks import OPERATIONS, RandomNetwork

from surgeon.coupling import trace
from surgeon.edit.verify import TOLERANCE, prove

SEEDS = range(60)


def network(seed: int, length: int, *names: str) -> RandomNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RandomNetwork(seed, length, names or None).eval()


@pytest.mark.parametrize("seed", SEEDS)
def test_permutation_is_proven_on_a_random_network(seed: int) -> None:
    model = network(seed, 8)
    graph = trace(model, model.example())
    proof = prove(model, graph, (model.example(),))
    assert proof.difference < TOLERANCE
    # The layer before the last is free in every network, so that freezing everything does not pass.
    hidden = next(group for group in graph.groups if group.name == "hidden")
    members = {(m.tensor, m.dim, m.role, tuple(m.positions[:, 0].tolist())) for m in hidden.members}
    places = tuple(range(5))
    assert members == {
        ("hidden.weight", 0, "producer", places),
        ("hidden.bias", 0, "affine", places),
        ("head.weight", 1, "consumer", places),
    }


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_permutation_is_proven_on_every_operation_between_convolutions(name: str) -> None:
    for seed in range(2):
        model = network(seed, 3, name, "Convolution")
        proof = prove(model, trace(model, model.example()), (model.example(),))
        assert proof.difference < TOLERANCE


def test_random_networks_contain_every_operation() -> None:
    used = {type(step).__name__ for seed in SEEDS for step in network(seed, 8).steps}
    assert used == set(OPERATIONS)
