"""Networks in which one branch weighs the channels, or the pixels, of another."""

import torch
from networks.base import Net, axis, group, into, network, out, vectors
from torch import nn
from torch.nn import functional


@network(group(8, out("stem"), out("fc2"), into("fc1"), into("head")), group(4, out("fc1"), into("fc2")))
class SqueezeExcite(Net):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        gate = x.mean((2, 3), keepdim=True)
        return self.head(x * torch.sigmoid(self.fc2(functional.relu(self.fc1(gate)))))


@network(group(8, out("stem"), out("fc2"), into("fc1"), into("head")), group(4, out("fc1"), into("fc2")))
class SqueezeExciteLinear(Net):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        x = self.stem(x)
        gate = functional.adaptive_avg_pool2d(x, 1).view(2, -1)
        gate = functional.hardsigmoid(self.fc2(functional.relu(self.fc1(gate)))).view(2, -1, 1, 1)
        return self.head(x * gate.expand_as(x))


@network(group(8, out("stem"), into("head")), frozen={("gate.weight", 1): ""})
class SpatialGate(Net):
    """CBAM's second half: mean and maximum over the channels weigh the pixels."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(x * torch.sigmoid(self.gate(pooled)))


@network(
    group(8, out("stem"), into("conv1"), into("conv2")),
    group(
        6,
        out("conv1"),
        out("conv2"),
        into("fc1"),
        into("head"),
        out("fc2", [(c, c + 6) for c in range(6)]),
    ),
    group(4, out("fc1"), into("fc2")),
)
class SelectiveKernel(Net):
    """SK: a softmax over two branches, channel by channel."""

    def __init__(self):
        super().__init__(8, 6)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x):
        x = self.stem(x)
        branches = torch.stack([self.conv1(x), self.conv2(x)], 1)
        attention = self.fc2(functional.relu(self.fc1(branches.sum(1).mean((2, 3), keepdim=True))))
        attention = torch.softmax(attention.view(2, 2, 6, 1, 1), dim=1)
        return self.head((branches * attention).sum(1))


@network(
    *[group(4, out("stem", at), *[into(conv, rows=(4 * g, 4 * g + 4)) for conv in ("conv1", "conv2")])
      for g, at in enumerate((range(4), range(4, 8)))],
    *[
        group(
            4,
            out("conv1", range(at, at + 4)),
            out("conv2", range(at, at + 4)),
            into("fc1", range(at, at + 4)),
            into("head", range(at, at + 4)),
            out("fc2", [(at + c, at + c + 8) for c in range(4)]),
        )
        for at in (0, 4)
    ],
    group(5, out("fc1"), into("fc2")),
)  # fmt: skip
class SelectiveGroups(Net):
    """SK over grouped convolutions: channels change places within their group only, in the attention, too."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc1, self.fc2 = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 16, 1)

    def forward(self, x):
        x = self.stem(x)
        branches = torch.stack([self.conv1(x), self.conv2(x)], 1)
        attention = self.fc2(functional.relu(self.fc1(branches.sum(1).mean((2, 3), keepdim=True))))
        attention = torch.softmax(attention.view(2, 2, 8, 1, 1), dim=1)
        return self.head((branches * attention).sum(1))


BOTH = [(c, c + 6) for c in range(6)]


@network(
    group(4, out("stem", range(4)), into("conv", rows=(0, 6))),
    group(4, out("stem", range(4, 8)), into("conv", rows=(6, 12))),
    group(6, out("conv", BOTH), into("fc1"), out("fc2", BOTH), into("head")),
    group(5, out("fc1"), into("fc2")),
)
class SplitAttention(Net):
    """ResNeSt: the branches come out of one grouped convolution."""

    def __init__(self):
        super().__init__(8, 6)
        self.conv = nn.Conv2d(8, 12, 1, groups=2)
        self.fc1, self.fc2 = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 12, 1)

    def forward(self, x):
        x = self.conv(self.stem(x)).reshape(2, 2, 6, 8, 8)
        pooled = x.sum(1).mean((2, 3), keepdim=True)
        attention = functional.softmax(
            self.fc2(functional.relu(self.fc1(pooled))).view(2, 1, 2, -1).transpose(1, 2), dim=1
        )
        return self.head((x * attention.reshape(2, -1).view(2, 2, 6, 1, 1)).sum(1))


@network(frozen={("stem.weight", 0): "conv1d", ("stem.bias", 0): "conv1d", ("head.weight", 1): "sequence"})
class EfficientChannelAttention(Net):
    """ECA: a convolution along the channels sees their order."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        x = self.stem(x)
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().view(2, 8, 1, 1)
        return self.head(x * gate)


@network(
    group(6, out("stem"), into("conv")),
    group(4, out("conv", [(c, c + 4) for c in range(4)]), into("head")),
)
class GatedLinearUnit(Net):
    def __init__(self):
        super().__init__(6, 4)
        self.conv = nn.Conv2d(6, 8, 1)

    def forward(self, x):
        return self.head(functional.glu(self.conv(self.stem(x)), 1))


@network(
    group(6, out("stem"), into("conv")),
    group(4, out("conv", [(c, c + 4, c + 8) for c in range(4)]), into("head")),
)
class Maxout(Net):
    def __init__(self):
        super().__init__(6, 4)
        self.conv = nn.Conv2d(6, 12, 1)

    def forward(self, x):
        return self.head(self.conv(self.stem(x)).view(2, 3, 4, 8, 8).max(1).values)


@network(group(8, out("stem"), into("head")))
class SummedByOnes(Net):
    """A product with fixed ones adds the channels up."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ones", torch.ones(8, 1), persistent=False)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        pooled = (x.permute(0, 2, 3, 1) @ self.ones).permute(0, 3, 1, 2)
        return self.head(x + pooled)


@network(group(8, out("stem"), out("gate"), into("gate"), into("head")))
class SoftmaxOverChannels(Net):
    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(functional.normalize(x, dim=1) * self.gate(x).softmax(1))


@network(group(8, out("stem"), into("context"), into("value")), group(6, out("value"), into("head")))
class GlobalContext(Net):
    """GCNet: one softmax over the pixels pools the channels."""

    def __init__(self):
        super().__init__(8, 6)
        self.context, self.value = nn.Conv2d(8, 1, 1), nn.Linear(8, 6)

    def forward(self, x):
        x = self.stem(x)
        weight = self.context(x).view(2, 64, 1).softmax(1)
        return self.head(self.value((x.flatten(2) @ weight).squeeze(-1)).view(2, 6, 1, 1))


@network(group(8, out("stem"), vectors("slope", "threshold"), into("head")))
class LearnedActivation(Net):
    """FReLU-like: every channel has a slope and a threshold of its own, as bare parameters."""

    def __init__(self):
        super().__init__()
        self.slope, self.threshold = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.where(x > self.threshold, x, self.slope * x))


@network(
    group(8, out("stem"), into("head"), axis("table", 1, "consumer"), axis("values", 1, "producer")),
    group(5, axis("table", 0, "producer"), axis("values", 0, "consumer")),
)
class ExternalMemory(Net):
    """External attention: pixels look up values in a learnt table."""

    def __init__(self):
        super().__init__()
        self.table, self.values = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        x = self.stem(x)
        weights = (x.flatten(2).transpose(1, 2) @ self.table.t()).softmax(-1)
        return self.head(x + (weights @ self.values).transpose(1, 2).view(2, 8, 8, 8))


@network(group(6, out("stem"), into("head")))
class GramMatrix(Net):
    """Products of a tensor with itself, over the pixels and over the channels."""

    def __init__(self):
        super().__init__(6)

    def forward(self, x):
        x = functional.relu(self.stem(x)).flatten(2)
        gram = x @ x.transpose(1, 2)
        similar = (x.transpose(1, 2) @ x).softmax(-1)
        x = x @ similar / gram.sum((1, 2), keepdim=True)
        return self.head(x.view(2, 6, 8, 8))
