"""The sizes that layers know of themselves, and their tensors."""

import pytest
import torch
from torch import nn

from surgeon.structure import set_sizes, shapes_at, sizes_of

CASES = [
    (nn.Conv2d(4, 6, 3), {"in_channels": 5, "out_channels": 2}, nn.Conv2d(5, 2, 3)),
    (nn.Conv2d(4, 6, (3, 1), groups=2, bias=False), {"in_channels": 6}, nn.Conv2d(6, 6, (3, 1), groups=2, bias=False)),
    (nn.Conv1d(4, 4, 3, groups=4), {"in_channels": 7, "out_channels": 7, "groups": 7}, nn.Conv1d(7, 7, 3, groups=7)),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), {"out_channels": 8}, nn.ConvTranspose2d(4, 8, 2, groups=2)),
    (nn.Linear(4, 3), {"in_features": 9}, nn.Linear(9, 3)),
    (nn.BatchNorm2d(4), {"num_features": 3}, nn.BatchNorm2d(3)),
    (nn.BatchNorm1d(4, affine=False), {"num_features": 5}, nn.BatchNorm1d(5, affine=False)),
]  # fmt: skip


@pytest.mark.parametrize(("module", "sizes", "wanted"), CASES, ids=lambda one: type(one).__name__)
def test_a_layer_has_what_one_made_so_has(module: nn.Module, sizes: dict[str, int], wanted: nn.Module) -> None:
    parameters = dict(module.named_parameters())
    set_sizes(module, sizes, lambda name, tensor, shape: tensor.new_zeros(shape))
    assert {key: value.shape for key, value in module.state_dict().items()} == {
        key: value.shape for key, value in wanted.state_dict().items()
    }
    assert sizes_of(module) == sizes_of(wanted)
    assert repr(module) == repr(wanted)
    assert all(value is parameters[name] for name, value in module.named_parameters())


def test_what_stays_keeps_its_values() -> None:
    norm = nn.BatchNorm2d(3)
    count = norm.num_batches_tracked
    set_sizes(norm, {"num_features": 2}, lambda name, tensor, shape: tensor[: shape[0]].clone())
    assert norm.num_batches_tracked is count
    convolution = nn.Conv2d(3, 2, 1)
    bias = convolution.bias.detach().clone()
    convolution(torch.ones(1, 3, 2, 2)).sum().backward()
    set_sizes(convolution, {"in_channels": 5}, lambda name, tensor, shape: tensor.new_ones(shape))
    assert torch.equal(convolution.bias, bias)
    assert convolution.weight.grad is None


def test_unknown_layers_have_no_sizes() -> None:
    class Experts(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(2, 2, 1)
            self.weight = nn.Parameter(torch.ones(4, 8))

    assert sizes_of(Experts()) is None
    assert sizes_of(nn.LayerNorm(4)) is None
    assert sizes_of(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1))) is None


def test_impossible_sizes_have_no_shapes() -> None:
    assert shapes_at(nn.Conv2d(4, 4, 1, groups=2), {"in_channels": 3}) is None
    assert shapes_at(nn.Conv2d(4, 4, 1), {"in_channels": 0}) is None
    assert shapes_at(nn.LayerNorm(4), {"normalized_shape": 3}) is None
