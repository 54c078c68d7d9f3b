"""The proof by permutation: what it takes, and that it notices every wrong graph."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.edit.verify import TOLERANCE, prove

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Forgetful(nn.Module):
    """A deep chain in which what a layer computes fades to a tenth with every layer behind it; wide layers first."""

    def __init__(self, wide: int = 12, narrow: int = 40) -> None:
        super().__init__()
        sizes = [3] + [9] * wide + [6] * narrow + [2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x * 0.1))
        return x


def test_the_counter_proof_of_a_deep_chain_shifts_a_late_layer() -> None:
    model, example = Forgetful(), torch.ones(2, 3)
    proof = prove(model, trace(model, example), example)
    assert proof.holds
    assert proof.groups == 52
    assert proof.counter_member is not None
    assert int(proof.counter_member[0].split(".")[1]) > 40


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.mask, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(1, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, image: torch.Tensor, extra: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        hidden = self.image(image)
        return self.head(torch.relu(hidden if extra is None else hidden + self.mask(extra["mask"])))


@pytest.mark.parametrize(
    "example",
    [IMAGES, (IMAGES,), {"image": IMAGES}, (IMAGES, {"mask": MASK}), {"extra": {"mask": MASK}, "image": IMAGES}],
    ids=["tensor", "tuple", "mapping", "nested tuple", "nested mapping"],
)
def test_an_example_is_what_trace_takes(example: Any) -> None:
    model = Masked()
    proof = prove(model, trace(model, example), example)
    assert proof.holds
    assert (proof.groups, proof.channels) == (1, 6)


def test_the_same_example_in_another_structure_gives_the_same_proof() -> None:
    model = Masked()
    graph = trace(model, IMAGES)
    assert prove(model, graph, IMAGES) == prove(model, graph, (IMAGES,)) == prove(model, graph, {"image": IMAGES})


@pytest.mark.parametrize("lost", [("image.weight", 0), ("image.bias", 0), ("head.weight", 1)])
def test_a_graph_that_lacks_a_member_is_refuted(lost: tuple[str, int]) -> None:
    model = Masked()
    graph = trace(model, IMAGES)
    (group,) = graph.groups
    kept = tuple(member for member in group.members if (member.tensor, member.dim) != lost)
    assert len(kept) == len(group.members) - 1
    wrong = CouplingGraph((dataclasses.replace(group, members=kept),), graph.frozen, graph.outputs)
    proof = prove(model, wrong, IMAGES)
    assert proof.difference > TOLERANCE
    assert not proof.holds
