"""Networks about normalization, of activations and of weights."""

import warnings

import torch
from networks.base import Net, axis, batch_norm, group, into, network, out, scale_shift, vectors
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations


@network(group(8, out("stem"), batch_norm("bn"), into("conv")), group(6, out("conv"), into("head"),
         *[axis(f"plain.running_{key}", 0, "statistic") for key in ("mean", "var")]))  # fmt: skip
class BatchNorm(Net):
    """In front of a convolution (pre-activation), and one without scale and shift."""

    def __init__(self):
        super().__init__(8, 6)
        self.bn, self.conv, self.plain = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6, affine=False)

    def forward(self, x):
        return self.head(self.plain(self.conv(functional.relu(self.bn(functional.relu(self.stem(x)))))))


@network(
    *[
        group(4, out("stem", at), scale_shift("gn", at), into("head", at))
        for at in ([0, 1, 2, 3], [4, 5, 6, 7])
    ]
)  # fmt: skip
class GroupNorm(Net):
    def __init__(self):
        super().__init__()
        self.gn = nn.GroupNorm(2, 8)

    def forward(self, x):
        return self.head(functional.relu(self.gn(self.stem(x))))


@network(group(8, out("stem"), scale_shift("gn"), into("head")))
class GroupNormOfOne(Net):
    def __init__(self):
        super().__init__()
        self.gn = nn.GroupNorm(1, 8)

    def forward(self, x):
        return self.head(functional.relu(self.gn(self.stem(x))))


@network(group(8, out("stem"), scale_shift("ln"), into("fc1"), out("fc2"), into("head")),
         group(12, out("fc1"), into("fc2")), shapes=[(2, 5, 3)])  # fmt: skip
class LayerNorm(nn.Module):
    """A transformer's MLP block on tokens."""

    def __init__(self):
        super().__init__()
        self.stem, self.ln, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.fc2(functional.gelu(self.fc1(self.ln(x)))))


@network(group(8, out("stem"), scale_shift("ln"), into("head")))
class LayerNormChannelsLast(Net):
    def __init__(self):
        super().__init__()
        self.ln = nn.LayerNorm(8)

    def forward(self, x):
        x = self.ln(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(functional.gelu(x))


@network(
    group(8, out("stem"), axis("ln.weight", 0, "affine"), axis("ln.bias", 0, "affine"), into("head")),
    frozen={(f"ln.{kind}", dim): "" for kind in ("weight", "bias") for dim in (1, 2)},
)
class LayerNormOverPixels(Net):
    """Statistics over channels and pixels, with a scale for every place."""

    def __init__(self):
        super().__init__()
        self.ln = nn.LayerNorm((8, 8, 8))

    def forward(self, x):
        return self.head(self.ln(self.stem(x)))


@network(group(8, out("stem"), batch_norm("norm"), into("head")))
class InstanceNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.head(functional.relu(self.norm(self.stem(x))))


@network(group(8, out("stem"), scale_shift("norm"), into("head")))
class InstanceNormLive(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(8, affine=True)

    def forward(self, x):
        return self.head(functional.relu(self.norm(self.stem(x))))


@network(group(8, out("stem", bias=True), vectors("norm.weight"), into("head")))
class RmsNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(8)

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x)


@network(group(8, out("stem"), vectors("scale"), into("head")))
class RmsNormByHand(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.scale)


@network(
    group(8, out("stem"), axis("norm.gamma", 3, "affine"), axis("norm.beta", 3, "affine"), into("head")),
)
class GlobalResponseNorm(Net):
    """GRN of ConvNeXt V2."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Module()
        self.norm.gamma, self.norm.beta = nn.Parameter(torch.ones(1, 1, 1, 8)), nn.Parameter(torch.zeros(1, 1, 1, 8))

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        spread = x.norm(p=2, dim=(1, 2), keepdim=True)
        spread = spread / (spread.mean(dim=-1, keepdim=True) + 1e-6)
        x = x + torch.addcmul(self.norm.beta, self.norm.gamma, x * spread)
        return self.head(x.permute(0, 3, 1, 2))


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        flat = self.weight.flatten(1)
        std, mean = torch.std_mean(flat, dim=1, keepdim=True)
        weight = ((flat - mean) / (std + 1e-5)).view_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class ScaledStandardizedConv(nn.Conv2d):
    """The convolution of NFNets: standardized by a batch normalization in training mode, times a learnt gain."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        flat = functional.batch_norm(flat, None, None, weight=(self.gain * 0.3).view(-1), training=True, eps=1e-6)
        return functional.conv2d(
            x, flat.reshape_as(self.weight), self.bias, self.stride, self.padding, groups=self.groups
        )


@network(group(8, out("stem"), into("conv")), group(6, out("conv"), into("head")))
class WeightStandardized(Net):
    kind: type[nn.Conv2d] = StandardizedConv
    groups = 1

    def __init__(self):
        super().__init__(8, 6)
        self.conv = self.kind(8, 6, 3, groups=self.groups)

    def forward(self, x):
        return self.head(functional.relu(self.conv(self.stem(x))))


def halves(*extra: str):
    """Expect the groups of a convolution with two groups, with further vectors along its filters."""
    for g in range(2):
        at = range(3 * g, 3 * g + 3)
        yield group(4, out("stem", range(4 * g, 4 * g + 4)), into("conv", rows=(3 * g, 3 * g + 3)))
        yield group(3, out("conv", at), into("head", at), *[vectors(name, at=at) for name in extra])


@network(*halves())
class WeightStandardizedGrouped(WeightStandardized):
    groups = 2


@network(group(8, out("stem"), into("conv")), group(6, out("conv"), vectors("conv.gain"), into("head")))
class ScaledStandardized(WeightStandardized):
    kind = ScaledStandardizedConv


@network(*halves("conv.gain"))
class ScaledStandardizedGrouped(ScaledStandardized):
    groups = 2


DIRECTION, LENGTH = "conv.parametrizations.weight.original1", "conv.parametrizations.weight.original0"


@network(
    group(8, out("stem"), axis(DIRECTION, 1, "consumer")),
    group(6, axis(DIRECTION, 0, "producer"), vectors(LENGTH, "conv.bias"), into("head")),
)
class WeightNorm(Net):
    def __init__(self):
        super().__init__(8, 6)
        self.conv = parametrizations.weight_norm(nn.Conv2d(8, 6, 3))

    def forward(self, x):
        return self.head(functional.relu(self.conv(self.stem(x))))


@network(
    group(8, out("stem"), axis("conv.weight_v", 1, "consumer")),
    group(6, axis("conv.weight_v", 0, "producer"), vectors("conv.weight_g", "conv.bias"), into("head")),
)
class WeightNormHook(Net):
    """The older form, which computes the weight in a hook before the forward pass."""

    def __init__(self):
        super().__init__(8, 6)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv = nn.utils.weight_norm(nn.Conv2d(8, 6, 3))

    def forward(self, x):
        return self.head(functional.relu(self.conv(self.stem(x))))
