"""Which modules a pattern names, and what is said when it names none."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import nn

import surgeon
from surgeon.coupling import CouplingGraph
from surgeon.errors import LayerError
from surgeon.operate.targets import find_targets


class Staged(nn.Module):
    """Two stages of two layers each, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage2(self.stage1(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def graph() -> CouplingGraph:
    return surgeon.trace(Staged(), torch.zeros(2, 3, 9, 9))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["stage2"], ("stage2",)),
        (["stage1.0", "stage2"], ("stage1.0", "stage2")),
        # `stage1.1` carries what `stage1.0` carries, so the wildcard takes the first only.
        (["stage1.*"], ("stage1.0", "stage1.2")),
        (["stage?"], ("stage1", "stage2")),
        ([], ("stage2",)),
    ],
)
def test_patterns(graph: CouplingGraph, patterns: list[str], expected: tuple[str, ...]) -> None:
    assert find_targets(graph, patterns) == expected


def test_a_pattern_without_match_names_the_nearest(graph: CouplingGraph) -> None:
    with pytest.raises(LayerError, match="stage3") as caught:
        find_targets(graph, ["stage3"])
    assert "stage1" in caught.value.remedy


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels + 2, 1)
        self.conv2 = nn.Conv2d(channels + 2, channels + 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(images).relu())


@pytest.fixture(scope="module")
def layered() -> CouplingGraph:
    stages = ((f"layer{stage}", nn.Sequential(Block(4 * stage), Block(4 * stage + 4))) for stage in (1, 2, 3))
    return surgeon.trace(nn.Sequential(OrderedDict(_chained(stages))), torch.zeros(2, 4, 8, 8))


def _chained(stages: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    for number, (name, stage) in enumerate(stages, start=1):
        yield name, stage
        yield f"pool{number}", nn.Conv2d(4 * number + 8, 4 * number + 4, 2, stride=2)


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("layr3", ["layer3"]),
        ("Layer2", ["layer2"]),
        ("layer3.conv1", ["layer3.0.conv1", "layer3.1.conv1"]),
        ("3.conv1", ["layer3.0.conv1", "layer3.1.conv1"]),
        ("layer4", ["layer1", "layer2", "layer3"]),
        ("layer2.5", ["layer2.0", "layer2.1"]),
    ],
)
def test_the_nearest_modules_are_those_a_typo_meant(layered: CouplingGraph, pattern: str, first: list[str]) -> None:
    with pytest.raises(LayerError) as caught:
        find_targets(layered, [pattern])
    named = caught.value.remedy.removeprefix("The nearest modules are: ").rstrip(".").split(", ")
    assert sorted(named[: len(first)]) == first
    assert len(named) <= 5
    assert all(layered.at(name) for name in named)


def test_a_stranger_sees_the_stages(graph: CouplingGraph) -> None:
    with pytest.raises(LayerError) as caught:
        find_targets(graph, ["bottleneck"])
    # `stage1.1` has the channels of `stage1.0`; `stage1.2` those of `stage1`, which is there already.
    assert caught.value.remedy == "No name is like it; modules with free channels are: stage1, stage2, stage1.0."


@pytest.mark.parametrize("pattern", ["head", "hea*"])
def test_frozen_channels_are_refused_with_the_reason(graph: CouplingGraph, pattern: str) -> None:
    with pytest.raises(LayerError, match="network's output"):
        find_targets(graph, [pattern])
