"""Random small networks: a chain of random operations on a pool of tensors, every one `[2, C, 4, 4]`."""

import random
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

SIDE = 4
WIDEST = 24
OPERATIONS: dict[str, tuple[type["Operation"], int]] = {}


class UnsuitableError(Exception):
    """The operation does not fit the tensors it was offered."""


class Operation(nn.Module):
    """A random operation: the constructor draws its options, `forward` returns a tensor or several."""

    def __init__(self, draw: random.Random, *channels: int) -> None:
        super().__init__()
        self.draw_options(draw, *channels)

    def draw_options(self, draw: random.Random, *channels: int) -> None:
        """Make what the operation needs; raises UnsuitableError."""


def operation(inputs: int = 1) -> Callable[[type[Operation]], type[Operation]]:
    """Register an operation on so many tensors."""

    def register(cls: type[Operation]) -> type[Operation]:
        OPERATIONS[cls.__name__] = (cls, inputs)
        return cls

    return register


def divisor(draw: random.Random, *numbers: int) -> int:
    """Return a common divisor greater than 1 and smaller than the first number."""
    found = [d for d in (2, 3, 4, 6) if d < numbers[0] and all(n % d == 0 for n in numbers)]
    if not found:
        raise UnsuitableError
    return draw.choice(found)


def need(condition: bool) -> None:
    if not condition:
        raise UnsuitableError


def width(draw: random.Random) -> int:
    return draw.choice([4, 6, 8, 12])


@operation()
class Convolution(Operation):
    def draw_options(self, draw, c):
        k, self.twice = draw.choice([1, 3]), draw.random() < 0.2
        self.conv = nn.Conv2d(c, c if self.twice else width(draw), k, padding=k // 2, bias=draw.random() < 0.7)

    def forward(self, x):
        x = self.conv(x)
        return self.conv(x) if self.twice else x


@operation()
class GroupedConvolution(Operation):
    def draw_options(self, draw, c):
        groups = divisor(draw, c)
        kind = draw.choice([nn.Conv2d, nn.ConvTranspose2d])
        self.conv = kind(c, groups * draw.choice([1, 2, 3]), 3, padding=1, groups=groups)

    def forward(self, x):
        return self.conv(x)


@operation()
class DepthwiseConvolution(Operation):
    def draw_options(self, draw, c):
        kind = draw.choice([nn.Conv2d, nn.ConvTranspose2d])
        self.conv = kind(c, c * draw.choice([1, 1, 2]), 3, padding=1, groups=c)

    def forward(self, x):
        return self.conv(x)


@operation()
class TransposedConvolution(Operation):
    def draw_options(self, draw, c):
        self.conv = nn.ConvTranspose2d(c, width(draw), 2, stride=2)

    def forward(self, x):
        return functional.max_pool2d(self.conv(x), 2)


@operation()
class StandardizedConvolution(Operation):
    def draw_options(self, draw, c):
        self.groups = divisor(draw, c) if draw.random() < 0.5 else 1
        self.weight = nn.Parameter(torch.randn(self.groups * draw.choice([2, 3]), c // self.groups, 1, 1))
        self.gain = nn.Parameter(torch.ones(len(self.weight), 1, 1, 1))
        self.reverse = draw.random() < 0.5

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = self.gain * weight if self.reverse else weight * self.gain
        return functional.conv2d(x, weight / (weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1), groups=self.groups)


@operation()
class Norm(Operation):
    def draw_options(self, draw, c):
        kinds = [nn.BatchNorm2d(c), nn.InstanceNorm2d(c, affine=True), nn.GroupNorm(1, c), nn.BatchNorm2d(c)]
        if draw.random() < 0.4:
            kinds = [nn.GroupNorm(divisor(draw, c), c)]
        self.norm = draw.choice(kinds)

    def forward(self, x):
        return self.norm(x)


@operation()
class LastDimensionNorm(Operation):
    def draw_options(self, draw, c):
        self.norm = draw.choice([nn.LayerNorm(c), nn.RMSNorm(c), nn.Linear(c, width(draw))])

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@operation()
class Activation(Operation):
    def draw_options(self, draw, c):
        self.act = draw.choice(
            [nn.ReLU(), nn.GELU(), nn.Hardswish(), nn.PReLU(c), nn.PReLU(), nn.Softmax(1), nn.Softmax(2), nn.Tanh()]
            if draw.random() < 0.7
            else [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.ELU()]
        )

    def forward(self, x):
        return self.act(x)


@operation(2)
class Pointwise(Operation):
    def draw_options(self, draw, c, d):
        need(c == d)
        self.way = draw.choice(["add", "add", "add", "sub", "maximum", "gate"])

    def forward(self, x, y):
        if self.way == "gate":
            return x * torch.sigmoid(y)
        return getattr(torch, self.way)(x, y)


@operation(2)
class Concatenate(Operation):
    def draw_options(self, draw, c, d):
        need(c + d <= WIDEST)
        self.zeros = draw.random() < 0.2

    def forward(self, x, y):
        return torch.cat([x, torch.zeros_like(y[:, :2]), y] if self.zeros else [x, y], 1)


@operation()
class CatWithSelf(Operation):
    def draw_options(self, draw, c):
        need(2 * c <= WIDEST)
        self.second = draw.choice(["same", "relu", "flip", "mean"])

    def forward(self, x):
        second = {
            "same": x,
            "relu": functional.relu(x),
            "flip": x.flip(2),
            "mean": x.mean((2, 3), keepdim=True).expand_as(x),
        }
        return torch.cat([x, second[self.second]], 1)


@operation()
class Chunk(Operation):
    def draw_options(self, draw, c):
        need(c >= 4)
        self.parts = divisor(draw, c)

    def forward(self, x):
        return x.chunk(self.parts, 1)


@operation()
class Split(Operation):
    def draw_options(self, draw, c):
        need(c >= 4)
        self.at = draw.randint(2, c - 2)

    def forward(self, x):
        return x.split([self.at, x.shape[1] - self.at], 1)


@operation()
class Slice(Operation):
    def draw_options(self, draw, c):
        need(c >= 6)
        self.start, self.step = draw.randint(0, 2), draw.choice([1, 2])

    def forward(self, x):
        return x[:, self.start :: self.step]


@operation()
class Shuffle(Operation):
    def draw_options(self, draw, c):
        self.groups, self.third = divisor(draw, c), draw.random() < 0.3

    def forward(self, x):
        if self.third:
            return functional.channel_shuffle(x, self.groups)
        return x.view(2, self.groups, -1, SIDE, SIDE).transpose(1, 2).reshape(x.shape)


@operation()
class PixelShuffle(Operation):
    def draw_options(self, draw, c):
        need(c % 4 == 0 and c > 4)
        self.convolve = nn.Conv2d(c // 4, c // 4, 3, padding=1) if draw.random() < 0.4 else nn.Identity()
        self.back = draw.choice(["pool", "unshuffle", "slice"])

    def forward(self, x):
        x = self.convolve(functional.pixel_shuffle(x, 2))
        if self.back == "pool":
            return functional.avg_pool2d(x, 2)
        return x[:, :, ::2, ::2] if self.back == "slice" else functional.pixel_unshuffle(x, 2)


@operation()
class SpaceToDepth(Operation):
    def draw_options(self, draw, c):
        need(4 * c <= WIDEST)

    def forward(self, x):
        x = torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        return functional.interpolate(x, scale_factor=2)


@operation()
class SqueezeExcite(Operation):
    def draw_options(self, draw, c):
        self.fc1, self.fc2, self.axis = nn.Linear(c, 5), nn.Linear(5, c), draw.choice(["channel", "pixel", "order"])
        self.gate = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        if self.axis == "pixel":
            return x * self.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        gate = self.fc2(functional.relu(self.fc1(x.mean((2, 3)))))
        return x * gate.softmax(1)[:, :, None, None] if self.axis == "order" else x * gate.sigmoid()[..., None, None]


@operation()
class BareParameter(Operation):
    def draw_options(self, draw, c):
        shape = draw.choice([(c, 1, 1), (1, c, SIDE, SIDE), (c, SIDE, 1), (1,), (SIDE, SIDE)])
        self.value, self.product = nn.Parameter(torch.randn(shape)), draw.random() < 0.5

    def forward(self, x):
        return self.value * x if self.product else x + self.value


@operation()
class Repeated(Operation):
    def draw_options(self, draw, c):
        need(2 * c <= WIDEST)
        self.interleave = draw.random() < 0.5

    def forward(self, x):
        return x.repeat_interleave(2, 1) if self.interleave else x.repeat(1, 2, 1, 1)


@operation()
class Factored(Operation):
    """See the channels as a grid, act along one of its sides, and come back."""

    def draw_options(self, draw, c):
        need(c >= 4)
        self.rows = divisor(draw, c)
        self.dim, self.way = draw.choice([1, 2]), draw.choice(["softmax", "sum", "amax", "max", "normalize", "add"])

    def forward(self, x):
        grid = x.view(2, self.rows, -1, SIDE, SIDE)
        if self.way == "softmax":
            return grid.softmax(self.dim).flatten(1, 2)
        if self.way == "normalize":
            return functional.normalize(grid, dim=self.dim).flatten(1, 2)
        if self.way == "add":
            return (grid + grid.mean(self.dim, keepdim=True)).flatten(1, 2)
        if self.way == "max":
            return grid.max(self.dim).values
        return getattr(grid, self.way)(self.dim)


@operation()
class FoldedIntoBatch(Operation):
    """Every group of channels goes through the same layer."""

    def draw_options(self, draw, c):
        self.groups, self.outer = divisor(draw, c), draw.random() < 0.5
        each = c // self.groups
        self.layer = draw.choice([nn.Conv2d(each, each, 3, padding=1), nn.BatchNorm2d(each), nn.Conv2d(each, 3, 1)])

    def forward(self, x):
        if self.outer:
            x = self.layer(x.reshape(2 * self.groups, -1, SIDE, SIDE))
            return x.reshape(2, -1, SIDE, SIDE)
        parts = [self.layer(part) for part in x.chunk(self.groups, 1)]
        return torch.stack(parts, 2).flatten(1, 2)


@operation(2)
class Stacked(Operation):
    def draw_options(self, draw, c, d):
        need(c == d and 2 * c <= WIDEST)
        self.way = draw.choice(["sum", "interleave", "weigh", "unbind", "join"])
        self.weight = nn.Parameter(torch.randn(2))

    def forward(self, x, y):
        stacked = torch.stack([x, y], 1)
        if self.way == "sum":
            return stacked.sum(1)
        if self.way == "weigh":
            return (stacked * self.weight.softmax(0).view(1, 2, 1, 1, 1)).sum(1)
        if self.way == "interleave":
            return torch.stack([x, y], 2).flatten(1, 2)
        if self.way == "join":
            return stacked.flatten(1, 2)
        first, second = stacked.relu().unbind(1)
        return first, first + second


@operation()
class RadixSoftmax(Operation):
    def draw_options(self, draw, c):
        need(c % 2 == 0 and c >= 4)
        self.fc = nn.Linear(c // 2, c)
        self.order = draw.random() < 0.5

    def forward(self, x):
        branches = x.view(2, 2, -1, SIDE, SIDE)
        gate = self.fc(branches.sum(1).mean((2, 3)))
        gate = gate.view(2, 2, -1) if self.order else gate.view(2, -1, 2).transpose(1, 2)
        return (branches * gate.softmax(1)[..., None, None]).sum(1)


@operation()
class Halves(Operation):
    def draw_options(self, draw, c):
        need(c % 2 == 0 and c >= 4)
        self.way = draw.choice(["glu", "geglu", "maxout"])

    def forward(self, x):
        if self.way == "glu":
            return functional.glu(x, 1)
        first, second = x.chunk(2, 1)
        return first * functional.gelu(second) if self.way == "geglu" else torch.maximum(first, second)


@operation()
class Attention(Operation):
    def draw_options(self, draw, c):
        heads, each = draw.choice([(2, 4), (4, 2), (2, 2), (1, 4), (3, 3)])
        self.heads, self.way = heads, draw.choice(["softmax", "sdpa", "linear", "channels", "einsum"])
        self.qkv, self.out = nn.Linear(c, 3 * heads * each), nn.Linear(heads * each, c)
        self.layout = draw.choice(["3hc", "h3c", "hc3"])

    def forward(self, x):
        tokens = self.qkv(x.flatten(2).transpose(1, 2))
        shape = {"3hc": (3, self.heads, -1), "h3c": (self.heads, 3, -1), "hc3": (self.heads, -1, 3)}[self.layout]
        order = {"3hc": (2, 0, 3, 1, 4), "h3c": (3, 0, 2, 1, 4), "hc3": (4, 0, 2, 1, 3)}[self.layout]
        q, k, v = tokens.view(2, SIDE**2, *shape).permute(order).unbind(0)
        if self.way == "softmax":
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        elif self.way == "sdpa":
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.way == "linear":
            y = functional.relu(q) @ (functional.relu(k).transpose(-2, -1) @ v)
        elif self.way == "channels":
            y = v @ (k.transpose(-2, -1) @ q).softmax(-1)
        else:
            y = torch.einsum("bhnm,bhmc->bhnc", torch.einsum("bhnc,bhmc->bhnm", q, k).softmax(-1), v)
        y = self.out(y.transpose(1, 2).reshape(2, SIDE**2, -1))
        return y.transpose(1, 2).view(x.shape)


@operation()
class Gram(Operation):
    def forward(self, x):
        flat = x.flatten(2)
        return ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view(x.shape)


@operation()
class TokenMixing(Operation):
    def draw_options(self, draw, c):
        self.mix = nn.Sequential(nn.Linear(SIDE**2, 5), nn.ReLU(), nn.Linear(5, SIDE**2))

    def forward(self, x):
        return x + self.mix(x.flatten(2)).view(x.shape)


@operation()
class Flattened(Operation):
    def draw_options(self, draw, c):
        self.fc, self.last = nn.Linear(c * 4, width(draw)), draw.random() < 0.5

    def forward(self, x):
        x = functional.avg_pool2d(x, 2)
        x = self.fc((x.permute(0, 2, 3, 1) if self.last else x).flatten(1))
        return x[:, :, None, None].expand(-1, -1, SIDE, SIDE)


@operation(2)
class InPlace(Operation):
    def draw_options(self, draw, c, d):
        need(c == d and c >= 4)
        self.way, self.cut = draw.choice(["whole", "slice", "copy", "relu", "fill", "zeros"]), draw.randint(1, c - 1)

    def forward(self, x, y):
        z = torch.zeros_like(x) if self.way == "zeros" else x.clone()
        part = z[:, : self.cut]
        if self.way in ("whole", "zeros"):
            z += y
        elif self.way == "slice":
            z[:, : self.cut] += y[:, : self.cut]
        elif self.way == "copy":
            z[:, self.cut :] = y[:, self.cut :]
        elif self.way == "relu":
            part.relu_()
        else:
            part.fill_(0.5)
        return (z, part) if part.shape[1] > 1 else z


@operation()
class Ordered(Operation):
    def draw_options(self, draw, c):
        self.way = draw.choice(["flip", "roll", "cumsum", "index", "sort", "conv"])
        self.register_buffer("order", torch.tensor(draw.sample(range(c), c)), persistent=False)
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        if self.way == "index":
            return x[:, self.order]
        if self.way == "sort":
            return x.sort(1).values
        if self.way == "conv":
            return x * self.conv(x.mean((2, 3)).unsqueeze(1)).view(2, -1, 1, 1)
        return x.roll(1, 1) if self.way == "roll" else x.flip(1) if self.way == "flip" else x.cumsum(1)


@operation()
class Padded(Operation):
    def draw_options(self, draw, c):
        need(c + 4 <= WIDEST)
        self.amounts = draw.choice([(0, 0, 0, 0, 2, 2), (0, 0, 0, 0, 0, 3), (1, 1, 1, 1)])

    def forward(self, x):
        return (
            functional.avg_pool2d(functional.pad(x, self.amounts), 3, 1)
            if len(self.amounts) == 4
            else functional.pad(x, self.amounts)
        )


@operation()
class UnfoldedPatches(Operation):
    def draw_options(self, draw, c):
        need(4 * c <= WIDEST)

    def forward(self, x):
        return functional.interpolate(functional.unfold(x, 2, stride=2).view(2, -1, 2, 2), size=SIDE)


@operation(2)
class DynamicConvolution(Operation):
    """One tensor writes the kernels with which the other one is convolved."""

    def draw_options(self, draw, c, d):
        self.fc, self.depthwise = nn.Linear(d, c if draw.random() < 0.5 else 3 * c), draw.random() < 0.5

    def forward(self, x, y):
        c = x.shape[1]
        kernels = self.fc(y.mean((0, 2, 3)))
        if len(kernels) == c:
            return functional.conv2d(x, kernels.view(c, 1, 1, 1), groups=c)
        return (
            functional.conv2d(x, kernels.view(3, c, 1, 1))
            if self.depthwise
            else functional.conv2d(x, kernels.view(c, 3).t()[..., None, None])
        )


@operation()
class DerivedWeight(Operation):
    """A linear layer whose weight is worked out from parameters."""

    def draw_options(self, draw, c):
        self.way = draw.choice(["flip", "cat", "slice", "product", "tied", "shuffled", "outer", "sum", "bank", "roll"])
        self.wide, self.square = nn.Parameter(torch.randn(6, c)), nn.Parameter(torch.randn(c, c))
        self.low, self.scale = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(3, c))

    def weight(self):
        if self.way == "flip":
            return self.wide.flip(0)
        if self.way == "roll":
            return self.wide.roll(1, 1)
        if self.way == "cat":
            return torch.cat([self.wide, self.scale])
        if self.way == "slice":
            return self.wide[1:5]
        if self.way == "product":
            return self.low @ self.scale
        if self.way == "shuffled":
            return self.wide.view(2, 3, -1).transpose(0, 1).reshape(6, -1)
        if self.way == "outer":
            return self.low.mean(1, keepdim=True) * self.scale.mean(0)
        if self.way == "bank":
            return torch.stack([self.wide, self.wide * 2 + self.scale.repeat(2, 1)]).flatten(0, 1)
        return self.square + self.square.t() if self.way == "sum" else self.wide

    def forward(self, x):
        x = functional.linear(x.permute(0, 2, 3, 1), self.weight())
        if self.way == "tied":
            x = functional.linear(functional.relu(x), self.wide.t())
        return x.permute(0, 3, 1, 2)


@operation(2)
class Modulation(Operation):
    """FiLM: one tensor writes the scale and shift of another; or a parameter holds both."""

    def draw_options(self, draw, c, d):
        self.fc, self.both = nn.Linear(d, 2 * c), nn.Parameter(torch.randn(2 * c))
        self.way = draw.choice(["film", "chunk", "view", "interleaved"])

    def forward(self, x, y):
        if self.way == "film":
            scale, shift = self.fc(y.mean((2, 3)))[..., None, None].chunk(2, 1)
        elif self.way == "chunk":
            scale, shift = self.both.view(1, -1, 1, 1).chunk(2, 1)
        elif self.way == "view":
            scale, shift = self.both.view(2, 1, -1, 1, 1).unbind(0)
        else:
            scale, shift = self.both[::2].view(-1, 1, 1), self.both[1::2].view(-1, 1, 1)
        return x * (1 + scale) + shift


@operation()
class ChannelsAsPixels(Operation):
    """Rows of the image change places with the channels."""

    def draw_options(self, draw, c):
        self.way = draw.choice(["conv", "linear", "pool", "norm", "softmax", "attention"])
        self.conv, self.fc, self.norm = nn.Conv2d(SIDE, SIDE, 3, padding=1), nn.Linear(c, c), nn.LayerNorm(SIDE)

    def forward(self, x):
        flipped = x.transpose(1, 2)
        if self.way == "conv":
            return self.conv(flipped).transpose(1, 2)
        if self.way == "linear":
            return self.fc(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        if self.way == "pool":
            return functional.avg_pool2d(flipped, 3, 1, 1).transpose(1, 2)
        if self.way == "norm":
            return self.norm(x)
        flat = x.flatten(2)
        if self.way == "attention":
            return functional.scaled_dot_product_attention(flat, flat.relu(), flat).view(x.shape)
        return (flat.transpose(1, 2) @ flat).softmax(2).mean(1).view(2, 1, SIDE, SIDE) * x


@operation()
class Places(Operation):
    """Positions of maxima, comparisons and counts."""

    def draw_options(self, draw, c):
        self.way = draw.choice(["unpool", "argmax", "hot", "mask", "where", "topk", "ramp", "extreme"])
        self.table, self.pixels = nn.Embedding(2, 3), nn.Parameter(torch.randn(SIDE, SIDE))

    def forward(self, x):
        if self.way == "unpool":
            # Random numbers on the pixels, because two equal maxima have no place that rounding would not change.
            values, places = functional.max_pool2d(x * self.pixels, 2, return_indices=True)
            return functional.max_unpool2d(values.sigmoid(), places, 2)
        if self.way == "argmax":
            return x * x.argmax(1, keepdim=True)
        if self.way == "hot":
            return functional.one_hot((x > 0).long(), 2)[..., 1].to(x.dtype) + x
        if self.way == "mask":
            return x.masked_fill(x.mean((2, 3), keepdim=True) > 0, 0.5)
        if self.way == "where":
            return torch.where(x > x.mean(1, keepdim=True), x, self.table.weight[0, 0])
        if self.way == "ramp":
            return x + torch.arange(SIDE, dtype=x.dtype)
        if self.way == "extreme":
            return x + x.max(2, keepdim=True).values + x.min(1, keepdim=True).indices
        return x.topk(2, 1).values


@operation(2)
class WrittenParts(Operation):
    """Parts of a uniform or a shared tensor change in place."""

    def draw_options(self, draw, c, d):
        need(c >= 4)
        self.way = draw.choice(["exp", "mask", "row", "expanded", "alias", "scatter"])

    def forward(self, x, y):
        z = torch.zeros_like(x)
        if self.way == "exp":
            z[:, 1:3].exp_()
        elif self.way == "mask":
            z[:, :2].masked_fill_(x[:, :2] > 0, 1.0)
        elif self.way == "row":
            z[:, :, 0] += y.mean()
        elif self.way == "expanded":
            z = x.mean((2, 3), keepdim=True).expand_as(x).clone()
            z[:, :, :1] += x[:, :, 1:2]
        elif self.way == "alias":
            z = x.clone()
            flat = z.flatten(2)
            flat.mul_(0.5)
            z.add_(1)
            return z + flat.view(x.shape)
        else:
            z = torch.slice_scatter(z, x[:, :2], 1, 1, 3)
        return z + x


class RandomNetwork(nn.Module):
    """So many random operations, each on random tensors of the pool, and a head that reads some of the last ones."""

    def __init__(self, seed: int, length: int = 8, names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.stem = nn.Conv2d(3, draw.choice([8, 12]), 1)
        self.steps, self.sources, self.kept = nn.ModuleList(), [], []
        with torch.no_grad():
            pool = [self.stem(self.example())]
            while len(self.steps) < length:
                self._grow(draw, pool, draw.choice(names or sorted(OPERATIONS)))
        self.read = sorted([*draw.sample(range(len(pool)), min(2, len(pool))), len(pool) - 1])
        self.hidden = nn.Conv2d(sum(pool[i].shape[1] for i in self.read), 5, 1)
        self.head = nn.Conv2d(5, 2, 1)

    @staticmethod
    def example() -> torch.Tensor:
        return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def _grow(self, draw: random.Random, pool: list[torch.Tensor], name: str) -> None:
        kind, inputs = OPERATIONS[name]
        first = len(pool) - 1 - min(int(draw.expovariate(1)), len(pool) - 1)
        sources = [first] + [draw.randrange(len(pool)) for _ in range(inputs - 1)]
        if inputs == 2:
            equal = [i for i, tensor in enumerate(pool) if tensor.shape == pool[first].shape]
            sources[1] = draw.choice([*equal, sources[1]])
        try:
            step = kind(draw, *(pool[i].shape[1] for i in sources))
            made = step(*(pool[i] for i in sources))
        except UnsuitableError:
            return
        self.steps.append(step.eval())
        self.sources.append(sources)
        pool.extend(made if isinstance(made, (tuple, list)) else [made])

    def forward(self, x):
        pool = [self.stem(x)]
        for step, sources in zip(self.steps, self.sources, strict=True):
            made = step(*(pool[i] for i in sources))
            pool.extend(made if isinstance(made, (tuple, list)) else [made])
        return self.head(functional.relu(self.hidden(torch.cat([pool[i] for i in self.read], 1))))
