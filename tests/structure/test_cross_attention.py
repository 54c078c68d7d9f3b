"""Cross-attention between surviving and rejuvenated channels against its equations, written out."""

import copy

import torch
from torch import nn

from surgeon.structure import CrossAttentionConv2d, CrossSets, attend, attendable


def network(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(5, 6, 3, padding=1, stride=2, bias=bias), nn.BatchNorm2d(6)).double().eval()


SETS = CrossSets(written=(1, 4), read=(0, 2, 3))


def cross_entries(weight: torch.Tensor) -> torch.Tensor:
    between = torch.zeros(6, 5, dtype=torch.bool)
    for row in range(6):
        for column in range(5):
            between[row, column] = (row in SETS.written) != (column in SETS.read)
    return between[:, :, None, None].expand_as(weight)


def test_equations_nine_and_ten_written_out() -> None:
    model, images = network(), torch.randn(2, 5, 7, 7, dtype=torch.float64)
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    zeros = torch.zeros(())
    within = nn.functional.conv2d(images, torch.where(cross_entries(weight), zeros, weight), None, 2, 1)
    between = nn.functional.conv2d(images, torch.where(cross_entries(weight), weight, zeros), None, 2, 1)
    wanted = within + 2 / (1 + torch.exp(-within)) * between + bias[:, None, None]
    attend(model, "0", SETS)
    assert isinstance(model[0], CrossAttentionConv2d)
    torch.testing.assert_close(model[0](images), wanted, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    # One surviving and one rejuvenated channel on both sides, 1x1: S = 3, R = -1, W = [[2, 0.5], [1, 4]].
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 0.5], [1.0, 4.0]])[:, :, None, None])
    attend(model, "0", CrossSets((1,), (1,)))
    result = model(torch.tensor([3.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1)).flatten()
    # S_out = 6 + 2 σ(6) (-0.5), R_out = -4 + 2 σ(-4) 3.
    torch.testing.assert_close(result, torch.tensor([5.00247262, -3.89208274], dtype=torch.float64), rtol=0, atol=1e-8)


def test_without_weights_between_the_kinds_it_is_the_convolution() -> None:
    model, images = network(bias=False), torch.randn(2, 5, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.masked_fill_(cross_entries(model[0].weight), 0)
    before = model(images)
    attend(model, "0", SETS)
    torch.testing.assert_close(model(images), before, rtol=1e-12, atol=1e-12)


def test_state_and_parameters_stay() -> None:
    model = network()
    keys, weight = list(model.state_dict()), model[0].weight
    attend(model, "0", SETS)
    assert list(model.state_dict()) == keys
    assert model[0].weight is weight
    attend(model, "0", CrossSets((0,), (0,)))
    assert model[0].written_new.tolist() == [0]
    twin = copy.deepcopy(model)
    images = torch.randn(2, 5, 7, 7, dtype=torch.float64)
    assert torch.equal(twin(images), model(images))


def test_whoever_holds_the_convolution_meets_the_attention() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Conv2d(5, 6, 3)
            self.layers = [self.one]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x)

    model, images = Listed(), torch.randn(2, 5, 7, 7)
    before = model(images)
    attend(model, "one", SETS)
    assert model.two is model.one is model.layers[0]
    assert not torch.allclose(model(images), before)


def test_grouped_or_changed_convolutions_are_left() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean(), None)

    assert attendable(nn.Conv2d(4, 4, 3))
    assert not attendable(nn.Conv2d(4, 4, 3, groups=2))
    assert not attendable(Standardized(4, 4, 3))
    assert not attendable(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)))
    assert not attendable(nn.Conv1d(4, 4, 3))
