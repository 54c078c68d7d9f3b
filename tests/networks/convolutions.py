"""Networks about kinds of convolutions."""

import torch
from networks.base import Net, axis, batch_norm, group, into, network, out, scale_shift, vectors
from torch import nn
from torch.nn import functional


@network(
    group(4, out("stem", range(4)), into("conv", rows=(0, 6))),
    group(4, out("stem", range(4, 8)), into("conv", rows=(6, 12))),
    group(6, out("conv", range(6)), into("head", range(6))),
    group(6, out("conv", range(6, 12)), into("head", range(6, 12))),
)
class Grouped(Net):
    def __init__(self):
        super().__init__(8, 12)
        self.conv = nn.Conv2d(8, 12, 3, groups=2)

    def forward(self, x):
        return self.head(functional.relu(self.conv(functional.relu(self.stem(x)))))


@network(group(8, out("stem"), scale_shift("depthwise"), batch_norm("bn"), into("head")))
class Depthwise(Net):
    def __init__(self):
        super().__init__()
        self.depthwise, self.bn = nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.head(functional.relu6(self.bn(self.depthwise(self.stem(x)))))


PAIRS = [(2 * c, 2 * c + 1) for c in range(4)]


@network(group(4, out("stem"), scale_shift("depthwise", PAIRS), into("head", PAIRS)))
class DepthwiseMultiplier(Net):
    def __init__(self):
        super().__init__(4, 8)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)

    def forward(self, x):
        return self.head(functional.relu(self.depthwise(self.stem(x))))


@network(group(8, out("stem"), into("squeeze")), group(8, out("expand"), into("head")))
class OneChannel(Net):
    def __init__(self):
        super().__init__()
        self.squeeze, self.expand = nn.Conv2d(8, 1, 3), nn.Conv2d(1, 8, 3)

    def forward(self, x):
        return self.head(functional.relu(self.expand(functional.relu(self.squeeze(self.stem(x))))))


@network(
    group(8, out("stem"), axis("up.weight", 0, "consumer")),
    group(6, axis("up.weight", 1, "producer"), vectors("up.bias"), into("head")),
)
class Transposed(Net):
    def __init__(self):
        super().__init__(8, 6)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)

    def forward(self, x):
        return self.head(functional.relu(self.up(self.stem(x))))


@network(
    group(4, out("stem", range(4)), axis("up.weight", 0, "consumer", range(4))),
    group(4, out("stem", range(4, 8)), axis("up.weight", 0, "consumer", range(4, 8))),
    group(3, axis("up.weight", 1, "producer", rows=(0, 4)), vectors("up.bias", at=range(3)), into("head", range(3))),
    group(
        3,
        axis("up.weight", 1, "producer", rows=(4, 8)),
        vectors("up.bias", at=range(3, 6)),
        into("head", range(3, 6)),
    ),
)
class TransposedGrouped(Net):
    def __init__(self):
        super().__init__(8, 6)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)

    def forward(self, x):
        return self.head(functional.relu(self.up(self.stem(x))))


@network(group(8, out("stem"), scale_shift("up"), into("head")))
class TransposedDepthwise(Net):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)

    def forward(self, x):
        return self.head(functional.relu(self.up(self.stem(x))))


@network(
    group(4, out("stem"), axis("up.weight", 0, "affine"), vectors("up.bias", at=PAIRS), into("head", PAIRS)),
    frozen={("up.weight", 1): "order"},
)
class TransposedDepthwiseMultiplier(Net):
    def __init__(self):
        super().__init__(4, 8)
        self.up = nn.ConvTranspose2d(4, 8, 2, stride=2, groups=4)

    def forward(self, x):
        return self.head(functional.relu(self.up(self.stem(x))))


@network(
    group(8, out("stem"), into("conv")),
    group(6, out("conv"), into("head")),
    shapes=[(2, 3, 16)],
)
class Conv1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 6, 3), nn.Conv1d(6, 2, 1)

    def forward(self, x):
        return self.head(functional.relu(self.conv(functional.relu(self.stem(x)))).mean(-1, keepdim=True))


@network(
    group(8, out("stem"), batch_norm("bn"), into("conv")),
    group(6, out("conv"), into("head")),
    shapes=[(2, 3, 4, 6, 6)],
)
class Conv3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.conv = nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 6, (1, 3, 3))
        self.head = nn.Conv3d(6, 2, 1)

    def forward(self, x):
        return self.head(functional.relu(self.conv(functional.relu(self.bn(self.stem(x))))))


@network(group(8, out("stem"), into("head")))
class FixedBlur(Net):
    """The same fixed kernel for every channel: anti-aliased pooling."""

    def __init__(self):
        super().__init__()
        kernel = torch.tensor([[1.0, 2.0, 1.0]]).T @ torch.tensor([[1.0, 2.0, 1.0]]) / 16
        self.register_buffer("kernel", kernel.expand(8, 1, 3, 3).clone(), persistent=False)

    def forward(self, x):
        return self.head(functional.conv2d(functional.relu(self.stem(x)), self.kernel, stride=2, groups=8))


@network(
    frozen={("stem.weight", 0): "kernel", ("stem.bias", 0): "kernel", ("head.weight", 1): "kernel"},
)
class FixedKernels(FixedBlur):
    """A fixed kernel of its own for every channel."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.arange(72.0).view(8, 1, 3, 3) / 72, persistent=False)


@network(group(8, out("stem"), vectors("kernel"), into("head")))
class StoredBlur(FixedBlur):
    """A blur kernel that the checkpoint holds moves with its channels."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.rand(8, 1, 3, 3))


@network(
    group(8, out("stem"), into("attend"), axis("experts", 2, "producer")),
    group(6, axis("experts", 1, "producer"), into("head")),
    group(3, out("attend"), axis("experts", 0, "consumer")),
)
class DynamicConvolution(Net):
    """CondConv: every image mixes its own kernels from three experts."""

    def __init__(self):
        super().__init__(8, 6)
        self.attend = nn.Linear(8, 3)
        self.experts = nn.Parameter(torch.randn(3, 6, 8))

    def forward(self, x):
        x = self.stem(x)
        mix = torch.sigmoid(self.attend(x.mean((2, 3))))
        kernels = (mix @ self.experts.flatten(1)).view(2, 6, 8)
        return self.head((kernels @ x.flatten(2)).view(2, 6, 8, 8))


@network(
    group(3, axis("bank", 1, "producer"), into("head", [(c, c + 3) for c in range(3)])),
    frozen={("stem.weight", 0): "", ("stem.bias", 0): "", ("bank", 0): "", ("bank", 2): ""},
)
class KernelBank(Net):
    """The kernels of a grouped convolution as one parameter: filters of all groups share an axis."""

    def __init__(self):
        super().__init__(8, 6)
        self.bank = nn.Parameter(torch.randn(2, 3, 4, 1, 1))

    def forward(self, x):
        return self.head(functional.conv2d(self.stem(x), self.bank.flatten(0, 1), groups=2))
