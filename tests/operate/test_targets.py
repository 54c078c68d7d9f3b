"""Which modules a pattern names, and what is said when it names none."""

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


@pytest.mark.parametrize("pattern", ["head", "hea*"])
def test_frozen_channels_are_refused_with_the_reason(graph: CouplingGraph, pattern: str) -> None:
    with pytest.raises(LayerError, match="network's output"):
        find_targets(graph, [pattern])
