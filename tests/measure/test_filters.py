import pytest
import torch
from torch import nn

from surgeon.coupling.graph import Layer, Norm, Writer
from surgeon.measure.filters import filter_count, filter_rows, own_norms


def layer_of(name: str, convolution: nn.Module | None = None, norm: Norm | None = None) -> Layer:
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    groups = 1 if convolution is None else convolution.groups
    return Layer(name, Writer(f"{name}.weight", None, norm), int(transposed), groups, True, 1)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_row_alone_computes_its_output_channel(kind: type[nn.Module], groups: int) -> None:
    torch.manual_seed(0)
    convolution = kind(4, 6, 3, groups=groups, bias=False).double()
    layer = layer_of("conv", convolution)
    rows = filter_rows(convolution.weight, layer)
    assert rows.shape == (6, 4 // groups * 9)
    assert filter_count(layer, {"conv.weight": convolution.weight}) == 6
    for channel in range(6):
        (gradient,) = torch.autograd.grad(
            convolution(torch.ones(1, 4, 5, 5, dtype=torch.float64))[0, channel].sum(), convolution.weight
        )
        used = convolution.weight[gradient != 0].detach()
        assert sorted(used.tolist()) == sorted(rows[channel].tolist())


def test_a_batch_norm_behind_two_layers_belongs_to_neither() -> None:
    shared, own = (Norm(f"{name}.weight", None, f"{name}.running_mean", f"{name}.running_var", 1e-5) for name in "ab")
    layers = [layer_of("x", norm=shared), layer_of("y", norm=own), layer_of("z", norm=shared), layer_of("w")]
    assert own_norms(layers) == {"y": own}
    assert own_norms([*layers, Layer("v", None, 0, 1, True, 1)]) == {"y": own}
