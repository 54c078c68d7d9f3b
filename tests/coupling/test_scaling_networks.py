"""Factors of tiny networks, one for every way in which a factor may be lost or a parameter be seen elsewhere.

Every network has a known number of factors, worked out by hand: one for every channel between what writes it (a
BatchNorm, a convolution, a linear layer) and what reads it, and none where anything else sees the channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import surgeon
from surgeon.coupling.graph import Scaling
from surgeon.edit.plan import Plan, Rescale
from surgeon.edit.verify import randomize

TOLERANCE = 1e-11
C = 6
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(2))
ORDER = torch.tensor([1, 0, 3, 2])


class Net(nn.Module):
    """Two convolutions with BatchNorms, a last one, whatever a case adds, and the case's forward pass."""

    def __init__(self, run: Callable[["Net", Tensor], Tensor], parts: dict[str, nn.Module | Tensor]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, C, 3, padding=1), nn.BatchNorm2d(C)
        self.conv2, self.norm2 = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)
        self.last = nn.Conv2d(C, 4, 1)
        self.run = run
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)

    def part(self, name: str) -> Tensor:
        value = getattr(self, name)
        assert isinstance(value, Tensor)
        return value

    def call(self, name: str, x: Tensor) -> Tensor:
        module = getattr(self, name)
        assert isinstance(module, nn.Module)
        result: Tensor = module(x)
        return result

    def first(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm1(self.conv1(x)))

    def second(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm2(self.conv2(x)))

    def end(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(x).mean((2, 3))
        return result


@dataclass(frozen=True)
class Case:
    """A forward pass, what it needs, and how many factors the network has."""

    name: str
    factors: int
    run: Callable[[Net, Tensor], Tensor]
    parts: Callable[[], dict[str, nn.Module | Tensor]] = field(default=dict)
    input: Tensor = IMAGES


def along(vector: Tensor) -> Tensor:
    """Show a vector as one number a channel of an image."""
    return vector.view(1, -1, 1, 1)


def fed(change: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Put a change between the first block and the last convolution."""
    return lambda net, x: net.end(change(net, net.first(x)))


def beside(more: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Add something that is computed from the first block to the last convolution's answer."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = net.first(x)
        return net.end(h) + more(net, h)

    return run


def coded(read: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Encode to 5 channels, read them by a layer of their own, and by something else."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = functional.relu(net.call("encode", x.mean((2, 3))))
        return net.call("own", h) + read(net, h)

    return run


def coder() -> dict[str, nn.Module | Tensor]:
    return {"encode": nn.Linear(3, 5), "own": nn.Linear(5, 3)}


def depthwise() -> dict[str, nn.Module | Tensor]:
    return {"kernel": nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False)}


def embedded(net: Net, x: Tensor) -> Tensor:
    h = functional.relu(net.call("table", x))
    h = h + net.call("down", functional.relu(net.call("up", h)))
    return functional.linear(h, net.part("gain") if hasattr(net, "gain") else net.get_parameter("table.weight"))


def token_layers() -> dict[str, nn.Module | Tensor]:
    return {"table": nn.Embedding(7, C), "up": nn.Linear(C, 8), "down": nn.Linear(8, C)}


def convolved(net: Net, x: Tensor) -> Tensor:
    """A convolution without a BatchNorm, whose bias is seen again."""
    return net.end(functional.relu(net.conv1(x)) * along(net.conv1.weight.mean((1, 2, 3))))


def shortcut(pad: Callable[[Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Three channels of the first block, made up to six, plus the second block."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = net.first(x)
        return net.end(pad(h[:, :3]) + net.second(h))

    return run


def ones_beside(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x)], 1)


def zeros_beside(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(2, 3, 8, 8)], 1)


def tokens_of(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def with_token(token: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Put one more token before those of the first block."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = tokens_of(net.first(x))
        return net.call("head", torch.cat([token(net, x), h], 1)).mean(1)

    return run


def head() -> dict[str, nn.Module | Tensor]:
    return {"head": nn.Linear(C, 4)}


def scalar_token() -> dict[str, nn.Module | Tensor]:
    return {**head(), "token": torch.ones(1, 1, 1)}


def through_kernel(more: Callable[[Net, Tensor, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """A depthwise kernel between the first block and the last convolution, and another use of its weight."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = net.first(x)
        return net.end(more(net, h, functional.relu(net.call("kernel", h))))

    return run


def densely(net: Net, h: Tensor, y: Tensor) -> Tensor:
    weight = net.get_parameter("kernel.weight")
    return y + functional.relu(functional.conv2d(h.sum(1, keepdim=True), weight, padding=1))


def transposed(net: Net, h: Tensor, y: Tensor) -> Tensor:
    weight = net.get_parameter("kernel.weight")
    return y + functional.conv_transpose2d(functional.relu(net.conv2(h)), weight, padding=1)


def computed(net: Net, h: Tensor) -> Tensor:
    return functional.linear(h, functional.linear(net.part("code"), net.part("table")))


CASES = [
    Case("plain", C, fed(lambda net, h: h)),
    Case("two blocks", 2 * C, fed(lambda net, h: net.second(h))),
    # A parameter that another operation sees, too.
    Case("tied embedding", 8, embedded, token_layers, TOKENS),
    Case("untied embedding", 8, embedded, lambda: {**token_layers(), "gain": torch.ones(7, C)}, TOKENS),
    Case(
        "tied by a transpose",
        0,
        coded(lambda net, h: functional.linear(h, net.get_parameter("encode.weight").T)),
        coder,
    ),
    Case("tied by a product", 0, coded(lambda net, h: h @ net.get_parameter("encode.weight")), coder),
    Case("layers of their own", 5, coded(lambda net, h: net.call("own", h)), coder),
    Case("scale as a gain", 0, fed(lambda net, h: h * along(net.norm1.weight))),
    Case("scale in a mean", 0, fed(lambda net, h: h * net.norm1.weight.abs().mean())),
    Case("one entry of the shift", 0, beside(lambda net, h: net.norm1.bias[0])),
    Case("slice of the scale", 0, beside(lambda net, h: net.norm1.weight[:1])),
    Case("filters as a gain", 0, convolved),
    Case(
        "bias as a gain",
        0,
        lambda net, x: net.end(functional.relu(net.conv1(x)) * along(net.get_parameter("conv1.bias"))),
    ),
    Case("reader's weight as a gain", 0, fed(lambda net, h: h * along(net.last.weight.sum((0, 2, 3))))),
    Case(
        "reader read through a view",
        0,
        beside(lambda net, h: functional.linear(h.mean((2, 3)), net.last.weight[:, :, 0, 0])),
    ),
    Case("one reader used twice", C, beside(lambda net, h: net.end(functional.max_pool2d(h, 2)))),
    # Channels that lose their axis.
    Case("a slice of one channel", C - 1, fed(lambda net, h: net.second(h) + h[:, :1])),
    Case("a gate of one channel", C - 1, fed(lambda net, h: h * h[:, :1])),
    Case("one channel selected", C - 1, beside(lambda net, h: h[:, 2].mean((1, 2))[:, None])),
    Case("all channels unbound", 0, beside(lambda net, h: torch.stack(h.unbind(1), -1).sum(-1).mean((1, 2))[:, None])),
    Case("a slice of two channels", C, fed(lambda net, h: torch.cat([h[:, :2].roll(1, 2), h[:, 2:]], 1))),
    # Constants in the place of channels.
    Case("joined rows of ones", 0, fed(lambda net, h: torch.cat([h, h.new_ones(2, C, 1, 8)], 2))),
    Case("joined rows of zeros", C, fed(lambda net, h: torch.cat([h, h.new_zeros(2, C, 1, 8)], 2))),
    Case("rows padded with a half", 0, fed(lambda net, h: functional.pad(h, (1, 1, 1, 1), value=0.5))),
    Case("rows padded with zeros", C, fed(lambda net, h: functional.pad(h, (1, 1, 1, 1)))),
    Case("mean with ones", 0, fed(lambda net, h: torch.stack([h, torch.ones_like(h)], 1).mean(1))),
    Case("mean with zeros", C, fed(lambda net, h: torch.stack([h, torch.zeros_like(h)], 1).mean(1))),
    Case("largest of it and ones", 0, fed(lambda net, h: torch.stack([h, torch.ones_like(h)]).amax(0))),
    # Three channels of the first block that only the second reads, and three that both blocks share.
    Case("shortcut with ones", C, shortcut(ones_beside)),
    Case("shortcut padded with ones", C, shortcut(lambda h: functional.pad(h, (0, 0, 0, 0, 0, 3), value=1.0))),
    Case("shortcut with zeros", C + 3, shortcut(zeros_beside)),
    Case("shortcut padded with zeros", C + 3, shortcut(lambda h: functional.pad(h, (0, 0, 0, 0, 0, 3)))),
    Case("shortcut with zeros times e⁰", C, shortcut(lambda h: torch.cat([h, torch.zeros_like(h).exp()], 1))),
    Case("one number as a token", 0, with_token(lambda net, x: net.part("token").expand(2, 1, C)), scalar_token),
    Case("brightness as a token", 0, with_token(lambda net, x: x.mean((1, 2, 3)).view(2, 1, 1).expand(2, 1, C)), head),
    Case(
        "largest of it and brightness",
        0,
        fed(lambda net, h: torch.stack([h, h.mean(1, keepdim=True).expand_as(h)]).amax(0)),
    ),
    # Weights computed from weights.
    Case(
        "a weight from weights",
        0,
        coded(computed),
        lambda: {**coder(), "code": torch.ones(3, 2), "table": torch.ones(5, 2)},
    ),
    Case(
        "a gate from weights",
        0,
        fed(lambda net, h: h * along(net.call("hyper", net.part("code"))[0])),
        lambda: {"hyper": nn.Linear(2, C), "code": torch.ones(1, 2)},
    ),
    Case(
        "a kernel from kernels",
        0,
        beside(
            lambda net, h: functional.conv2d(h, functional.conv2d(h.new_ones(4, 2, 3, 3), net.part("table"))).mean(
                (2, 3)
            )
        ),
        lambda: {"table": torch.ones(C, 2, 1, 1)},
    ),
    # Depthwise kernels, which are multiplied by one factor and divided by another.
    Case("depthwise", 2 * C, through_kernel(lambda net, h, y: y), depthwise),
    Case("depthwise twice", C, through_kernel(lambda net, h, y: functional.relu(net.call("kernel", y))), depthwise),
    Case(
        "depthwise kernel as a gain",
        0,
        through_kernel(lambda net, h, y: y * along(net.get_parameter("kernel.weight").mean((1, 2, 3)))),
        depthwise,
    ),
    Case("depthwise kernel used densely", 0, through_kernel(densely), depthwise),
    Case("depthwise kernel used transposed", 0, through_kernel(transposed), depthwise),
    # Operations that are not homogeneous, and some that are.
    Case("product along rows", 0, fed(lambda net, h: h.cumprod(2))),
    Case("logarithm of a sum along rows", 0, fed(lambda net, h: h.logcumsumexp(2))),
    Case("sum along rows", C, fed(lambda net, h: h.cumsum(2))),
    Case("rounded to integers", 0, fed(lambda net, h: (4 * h).to(torch.int32).to(h.dtype))),
    Case("made a mask", 0, fed(lambda net, h: h.bool().to(h.dtype))),
    Case("cast to double", C, fed(lambda net, h: h.to(torch.float64).to(h.dtype))),
    Case(
        "addmm with a constant",
        0,
        lambda net, x: net.call("head", torch.addmm(x.new_ones(1, 1), x.new_ones(3, 2), net.first(x).mean((2, 3)))),
        head,
    ),
    Case(
        "addmm without a summand of its own",
        C,
        lambda net, x: net.call(
            "head", torch.addmm(net.first(x).mean((2, 3)), x.new_ones(2, 2), net.first(x).amax((2, 3)))
        ),
        head,
    ),
    Case(
        "baddbmm with a constant",
        0,
        lambda net, x: net.end(
            torch.baddbmm(x.new_ones(2, 1, 1), net.first(x).flatten(2), x.new_ones(2, 64, 4)).unsqueeze(3)
        ),
    ),
    Case("addcmul on a constant", 0, fed(lambda net, h: torch.addcmul(h.new_ones(1), h, h.new_full((1,), 2.0)))),
    Case("addcmul of constants", 0, fed(lambda net, h: torch.addcmul(h, h.new_ones(1), h.new_full((1,), 2.0)))),
    Case("addcmul of activations", C, fed(lambda net, h: torch.addcmul(h, h, h.new_full((1,), 2.0)))),
    Case(
        "slopes of the channels",
        C,
        lambda net, x: net.end(net.call("slope", net.norm1(net.conv1(x)))),
        lambda: {"slope": nn.PReLU(C)},
    ),
    Case(
        "one slope",
        C,
        lambda net, x: net.end(net.call("slope", net.norm1(net.conv1(x)))),
        lambda: {"slope": nn.PReLU()},
    ),
    Case("slopes from the channels", 0, fed(lambda net, h: torch.prelu(h, h.mean((0, 2, 3)) - 1))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_random_factors_leave_the_output_alone(case: Case) -> None:
    model = Net(case.run, case.parts()).eval()
    scaling = surgeon.trace(model, case.input).scaling
    assert scaling.size == case.factors
    model = model.double()
    randomize(model, torch.Generator().manual_seed(0))
    images = case.input.double() if case.input.is_floating_point() else case.input
    factors = 0.2 + 3.8 * torch.rand(scaling.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model(images)
        surgeon.execute(model, Plan("test", {}, (), (Rescale(scaling, factors),)))
        after = model(images)
    assert float((before - after).norm() / before.norm()) < TOLERANCE


def scaling_of(run: Callable[[Net, Tensor], Tensor]) -> Scaling:
    return surgeon.trace(Net(run, {}), IMAGES).scaling


def test_every_channel_without_a_factor_is_counted_under_one_reason() -> None:
    reasons = scaling_of(
        beside(lambda net, h: h[:, 2:3].amax((2, 3)) + h[:, 4:].sigmoid().mean((1, 2, 3))[:, None])
    ).reasons
    counts = reasons["norm1.weight"]
    assert sorted(counts.values()) == [1, 2]
    assert next(count for reason, count in counts.items() if "sigmoid" in reason) == 2
    assert next(count for reason, count in counts.items() if "aten.slice" in reason) == 1


def test_the_operation_that_sees_a_parameter_is_the_reason() -> None:
    reasons = scaling_of(fed(lambda net, h: h * along(net.norm1.weight))).reasons
    assert reasons["norm1.weight"] == {
        "In the network itself, aten.view uses 'norm1.weight', which can take no factor up there.": C
    }


@pytest.mark.parametrize(
    ("change", "homogeneous"),
    [
        (lambda net, h: h, True),
        (lambda net, h: torch.cat([h, h.new_ones(2, C, 1, 8)], 2), False),
        (lambda net, h: torch.cat([h, h.new_zeros(2, C, 1, 8)], 2), True),
        (lambda net, h: h.cumprod(2), False),
        (lambda net, h: h.to(torch.int32).to(h.dtype), False),
    ],
)
def test_groups_know_of_constants_products_and_casts(
    change: Callable[[Net, Tensor], Tensor], homogeneous: bool
) -> None:
    (group,) = surgeon.trace(Net(fed(change), {}), IMAGES).groups
    assert group.size == C
    assert group.homogeneous is homogeneous


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda y: y, True),
        (lambda y: y.flip(1), True),
        (lambda y: y[:, ORDER], True),
        (lambda y: y * torch.arange(1, 5), True),
        (lambda y: (y, y.topk(2).indices), True),
        (lambda y: y.topk(2).indices, True),
        (lambda y: y.max(1).indices, True),
        (lambda y: y.softmax(1).flip(1)[:, None], True),
        (lambda y: y @ torch.eye(4), False),
    ],
)
def test_frozen_axes_know_the_networks_output(change: Callable[[Tensor], Tensor], shown: bool) -> None:
    graph = surgeon.trace(Net(lambda net, x: change(net.end(net.first(x).flip(1))), {}), IMAGES)
    output = {(axis.tensor, axis.dim) for axis in graph.frozen if axis.output}
    assert output == ({("last.weight", 0), ("last.bias", 0)} if shown else set())
    assert ("norm1.weight", 0) in {(axis.tensor, axis.dim) for axis in graph.frozen}


class Shared(nn.Module):
    """Two modules with one weight between others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, C, 1), nn.Conv2d(C, 4, 1)
        self.one, self.other = nn.Conv2d(C, C, 1, bias=False), nn.Conv2d(C, C, 1, bias=False)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.other(functional.relu(self.one(self.first(x)))))
        return result


def test_a_layer_has_the_names_of_all_modules_that_share_its_weight() -> None:
    layers = surgeon.trace(Shared(), IMAGES).layers
    assert [(layer.name, layer.names, layer.positions) for layer in layers] == [
        ("first", ("first",), 64),
        ("one", ("one", "other"), 128),
        ("last", ("last",), 64),
    ]
