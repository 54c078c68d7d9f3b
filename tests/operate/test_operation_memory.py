"""No one-shot operation needs more memory beside the weights than the largest layer's."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from operations import OPERATIONS, operation, peak_bytes

WIDTH = 384
DEPTH = 8


def make_network(seed: int) -> nn.Sequential:
    """Return a chain of 3×3 and 1×1 convolutions; much of what they hold may not be there a second time."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, WIDTH, 1))
        for _ in range(DEPTH):
            for size in (3, 1):
                model.extend([nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2), nn.BatchNorm2d(WIDTH), nn.ReLU()])
                nn.init.uniform_(model[-2].weight, 0.01, 1.01)
        model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)])
    return model.eval()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_peak_beside_the_weights_is_below_the_largest_layer(name: str) -> None:
    model = make_network(0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    peak = peak_bytes(operation(name, model, make_network(1), torch.zeros(2, 3, 4, 4)))
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert 0 < peak <= max(parameter.nbytes for parameter in model.parameters())
