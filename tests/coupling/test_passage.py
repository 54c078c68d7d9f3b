"""Which layers' channels stay apart until weights read them: known cases, and every doubt against."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.coupling import trace

EXAMPLE = torch.zeros(2, 3, 8, 8)


class Between(nn.Module):
    """A convolution with BatchNorm, something, and a convolution that reads it."""

    def __init__(self, what: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)
        self.what = what
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.what(self, self.norm(self.conv(images)))).mean((2, 3))


def conv(inputs: int = 4, outputs: int = 4) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1)


def excited(net: Any, x: Tensor) -> Tensor:
    return x * net.expand(net.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def added_unseen(net: Any, x: Tensor) -> Tensor:
    stream = net.other(x)
    view = stream.view(2, 4, 8, 8)
    view += x
    return stream.relu()


def shuffled(net: Any, x: Tensor) -> Tensor:
    return x.view(2, 2, 2, 8, 8).transpose(1, 2).reshape(2, 4, 8, 8)


def attended(net: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    return (tokens @ tokens.transpose(1, 2) @ tokens).view(2, 4, 8, 8)


APART: dict[str, Callable[..., Tensor]] = {
    "relu": lambda net, x: x.relu(),
    "silu": lambda net, x: functional.silu(x),
    "by hand": lambda net, x: x * x.sigmoid(),
    "pool": lambda net, x: functional.max_pool2d(x.relu_(), 2),
    "average": lambda net, x: x.mean((2, 3), keepdim=True),
    "twice": lambda net, x: x + functional.avg_pool2d(x, 3, 1, 1),
    "resize": lambda net, x: functional.interpolate(x, scale_factor=2),
    "clamp": lambda net, x: x.clamp(-1, 6),
}
MIXED: dict[str, Callable[..., Tensor]] = {
    "softmax": lambda net, x: x.softmax(1),
    "normalize": lambda net, x: functional.normalize(x, dim=1),
    "layer norm": lambda net, x: functional.layer_norm(x, (4, 8, 8)),
    "group norm": lambda net, x: functional.group_norm(x, 1),
    "mean of channels": lambda net, x: x * x.mean(1, keepdim=True).sigmoid(),
    "mean of all": lambda net, x: x * x.mean().sigmoid(),
    "largest channel": lambda net, x: x * x.amax(1, keepdim=True),
    "attention": attended,
    "shuffle": shuffled,
    "first channels": lambda net, x: x[:, :2].repeat(1, 2, 1, 1),
    "pooled channels": lambda net, x: functional.avg_pool2d(x.flatten(2), 3, 1, 1).view(2, 4, 8, 8),
    "mean that a layer reads": lambda net, x: net.one(x.mean(1, keepdim=True)),
    "written into a view": added_unseen,
    "sum of products": lambda net, x: torch.einsum("bchw,bchw->bhw", x, x)[:, None] * x,
}


@pytest.mark.parametrize("name", APART)
def test_operations_on_each_channel_by_itself(name: str) -> None:
    passage = trace(Between(APART[name]).eval(), EXAMPLE).passage
    assert passage.apart == {"conv.weight"}
    assert passage.gates == set()
    assert passage.reasons.keys() == {"head.weight"}


@pytest.mark.parametrize("name", MIXED)
def test_operations_in_which_channels_meet(name: str) -> None:
    passage = trace(Between(MIXED[name], other=conv(), one=conv(1)).eval(), EXAMPLE).passage
    assert not passage.apart
    assert "may let them meet" in passage.reasons["conv.weight"]


@pytest.mark.parametrize("name", APART)
def test_no_other_channel_feels_one_that_is_apart(name: str) -> None:
    """The oracle: what a channel depends on, by its gradient."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8).double().requires_grad_()
    result = APART[name](None, x * 1)
    (gradient,) = torch.autograd.grad(result[:, 0].square().sum(), x)
    assert gradient[:, 0].any()
    assert not gradient[:, 1:].any()


def test_a_depthwise_layer_reads_and_passes_on() -> None:
    deep = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU())
    passage = trace(Between(lambda net, x: net.deep(x.relu()), deep=deep).eval(), EXAMPLE).passage
    assert passage.apart == {"conv.weight", "deep.0.weight"}
    bare = nn.Conv2d(4, 4, 3, groups=4)
    passage = trace(Between(lambda net, x: net.deep(x.relu()), deep=bare).eval(), EXAMPLE).passage
    assert passage.apart == {"conv.weight"}


def test_a_pool_over_channels_and_positions_lets_channels_meet() -> None:
    class Signal(nn.Module):
        def __init__(self, pool: nn.Module) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 1)
            self.pool = pool

        def forward(self, signals: Tensor) -> Tensor:
            return self.head(self.pool(self.norm(self.conv(signals))))

    for pool, apart in ((nn.AvgPool1d(3, 1, 1), {"conv.weight"}), (nn.AvgPool2d(3, 1, 1), set())):
        assert trace(Signal(pool).eval(), torch.zeros(2, 3, 8)).passage.apart == apart


def test_a_second_reader_before_the_norm_is_told() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.one, self.two = conv(3), nn.BatchNorm2d(4), conv(), conv()

        def forward(self, images: Tensor) -> Tensor:
            raw = self.conv(images)
            return self.one(self.norm(raw)) + self.two(raw)

    assert "conv.weight" not in trace(Raw().eval(), EXAMPLE).passage.apart


def test_gates_multiply_channels_of_others() -> None:
    net = Between(excited, reduce=conv(4, 2), expand=conv(2, 4)).eval()
    passage = trace(net, EXAMPLE).passage
    assert passage.apart == {"conv.weight"}
    assert passage.gates == {"expand.weight"}


@pytest.mark.parametrize(
    "what",
    [
        # Its own gate, two without a BatchNorm, added as well, and a gate that is added.
        lambda net, x: x + net.other(x) * net.other(x).sigmoid(),
        lambda net, x: x + net.other(x) * net.more(x).sigmoid(),
        lambda net, x: (lambda gate: x * gate.sigmoid() + gate)(net.other(x)),
        lambda net, x: x + net.other(x).sigmoid(),
        lambda net, x: x * net.other(x).softmax(1),
    ],
)
def test_what_is_not_surely_a_gate_is_none(what: Callable[..., Tensor]) -> None:
    assert not trace(Between(what, other=conv(), more=conv()).eval(), EXAMPLE).passage.gates
