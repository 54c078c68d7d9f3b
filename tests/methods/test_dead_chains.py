"""Channels that are cut off behind their own BatchNorm, and scales that rescaling must not run away with."""

from collections.abc import Callable

import torch
from test_neural_rejuvenation import Chain, Residual, inputs, kill, network
from torch import Tensor, nn

from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.measure.bn import recalibrate
from surgeon.measure.utilization import dead_groups, shares_in_use
from surgeon.methods.neural_rejuvenation import NeuralRejuvenationConfig, make_plan

EXAMPLE = torch.zeros(1, 3, 8, 8).double()


def dead(model: nn.Module) -> dict[str, list[int]]:
    found = dead_groups(trace(model, EXAMPLE), model.state_dict(keep_vars=True))
    return {group.name: channels.tolist() for group, channels in found.items()}


class Ghost(nn.Module):
    """A depthwise layer beside what it reads: its dead scales shut off only its own half."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.deep, self.norm_deep = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.norm_one(self.one(images)).relu()
        return self.head(torch.cat([first, self.norm_deep(self.deep(first))], 1)).mean((2, 3))


class Squeezed(nn.Module):
    """A BatchNorm behind the multiplication with a gate, which has read the channels before."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.reduce, self.expand, self.norm_late = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm_one(self.one(images)).relu()
        gate = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(self.norm_late(x * gate)).mean((2, 3))


def test_a_small_scale_in_front_of_another_norm_shuts_nothing_off() -> None:
    """The second BatchNorm divides by how small the first has made the channel; only zero stays zero."""
    model = network(Chain)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        model.norm_one.weight[[1, 4]] = torch.tensor([0.005, 0.0]).double()
        model.norm_one.bias[[1, 4]] = 0.0
    recalibrate(model, [(images, torch.zeros(16))], device=torch.device("cpu"))
    read: list[Tensor] = []
    model.two.register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    model(images)
    spread = read[0].std((0, 2, 3))
    assert spread[1] > 0.5 * spread[[0, 2, 3, 5]].min()
    assert spread[4] == 0
    assert dead(model) == {"one": [4]}


def test_a_dead_scale_behind_a_depthwise_layer_shuts_its_channel_off() -> None:
    model = network(Chain)
    with torch.no_grad():
        model.norm_one.weight[2] = 0.0
    kill(model, norm_deep=[0, 1, 3])
    assert dead(model) == {"one": [0, 1, 2, 3]}
    graph = trace(model, EXAMPLE)
    tensors = model.state_dict(keep_vars=True)
    parameters, _ = shares_in_use(graph, tensors, dead_groups(graph, tensors))
    # Of `one`, `deep` and their norms 2 of 6 channels are left, and 2 of 6 columns of `two`.
    left = 2 * (27 + 2 + 9 + 2) + 8 * 2 + 2 * 8 + 8 * 4 + 4
    assert parameters == left / sum(parameter.numel() for parameter in model.parameters())
    before = model.two.weight.detach().clone()
    execute(model, make_plan(inputs(model), NeuralRejuvenationConfig()))
    assert not model.two.weight[:, :4].any()
    assert torch.equal(model.two.weight[:, 4:], before[:, 4:])


def test_channels_that_are_read_before_the_dead_scale_live() -> None:
    for kind, norm in ((Ghost, "norm_deep"), (Squeezed, "norm_late")):
        model = network(kind)
        kill(model, **{norm: [1, 2]})
        assert dead(model) == {}
    model = network(Squeezed)
    kill(model, norm_one=[2])
    with torch.no_grad():
        model.norm_one.weight[3] = 0.0
    assert dead(model) == {"one": [3]}


def test_every_stream_has_to_be_shut_off() -> None:
    model = network(Residual)
    kill(model, norm_stem=[0, 1], norm_two=[1, 2])
    assert dead(model) == {"stem": [1]}


def moved(kind: Callable[[], nn.Module], residual: bool, **scales: tuple[int, float]) -> dict[str, float]:
    """Return by how much rescaling has lifted every scale and shift at most."""
    model = network(kind)
    with torch.no_grad():
        for norm, (channel, scale) in scales.items():
            model.get_submodule(norm).weight.fill_(1.0)
            model.get_submodule(norm).weight[channel] = scale
    with torch.no_grad():
        model.norm_one.weight[0] = 0.0
    before = {key: value.clone() for key, value in model.state_dict().items()}
    execute(model, make_plan(inputs(model), NeuralRejuvenationConfig(rescale=True, include_residual=residual)))
    return {
        key: float((value[1:] / before[key][1:]).abs().max())
        for key, value in model.state_dict().items()
        if "norm" in key and "running" not in key and "tracked" not in key
    }


def test_strong_scales_of_a_stream_are_not_lifted_along() -> None:
    lifted = moved(Residual, True, norm_stem=(1, 1.0), norm_two=(1, 0.05))
    assert lifted["norm_stem.weight"] <= 1 + 1e-9


def test_no_shift_runs_away_behind_a_scale_that_is_all_but_zero() -> None:
    lifted = moved(Ghost, False, norm_deep=(3, 1e-7))
    assert lifted["norm_deep.bias"] <= 1 + 1e-9
