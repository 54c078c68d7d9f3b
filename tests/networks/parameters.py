"""Networks with weights that are shared, tied, bare or computed."""

import torch
from networks.base import Net, axis, group, into, network, out, vectors
from torch import nn
from torch.nn import functional


@network(group(8, out("stem"), out("conv"), into("conv"), into("head")))
class CalledTwice(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.conv(self.stem(x)))
        return self.head(functional.relu(self.conv(x)))


@network(group(8, out("stem"), into("conv1")), group(6, out("conv1"), into("head"), vectors("conv2.bias")))
class Tied(Net):
    """Two layers with one weight tensor: it has two names in the checkpoint, and must be permuted once."""

    def __init__(self):
        super().__init__(8, 6)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.conv2.weight = self.conv1.weight

    def forward(self, x):
        x = self.stem(x)
        return self.head(functional.relu(self.conv1(x)) + self.conv2(functional.relu(x)))


@network(
    group(8, out("stem"), into("encode"), vectors("shift"), into("head")),
    group(6, out("encode")),
    shapes=[(2, 3)],
)
class TiedTransposed(nn.Module):
    """An autoencoder that decodes with the transposed weight of its encoder."""

    def __init__(self):
        super().__init__()
        self.stem, self.encode, self.head = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(8, 2)
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        hidden = functional.relu(self.encode(self.stem(x)))
        return self.head(functional.linear(hidden, self.encode.weight.t(), self.shift))


@network(group(8, out("stem"), out("conv"), into("conv"), vectors("gamma"), into("head")))
class LayerScale(Net):
    def __init__(self):
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.ones(8))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.gamma.reshape(1, -1, 1, 1) * self.conv(x))


@network(
    group(8, out("stem"), axis("cls", 2, "affine"), axis("position", 2, "affine"), into("fc")),
    frozen={("stem.weight", 1): "input", ("position", 1): "", ("fc.weight", 0): "output", ("fc.bias", 0): "output"},
    ends=False,
)
class ClassToken(nn.Module):
    """Patches, a class token and a position embedding, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 2)
        self.cls, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(2, -1, -1), x], 1) + self.position
        return self.fc(x[:, 0] + x[:, 1:].mean(1))


@network(
    group(8, out("stem"), axis("position", 1, "affine"), into("head")),
    frozen={("position", 2): "", ("position", 3): ""},
)
class ResizedPosition(Net):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 8, 4, 4))

    def forward(self, x):
        return self.head(self.stem(x) + functional.interpolate(self.position, size=(8, 8), mode="bicubic"))


@network(group(8, out("stem"), vectors("act.weight", "table.weight"), into("head")))
class Prelu(Net):
    def __init__(self):
        super().__init__()
        self.act, self.table = nn.PReLU(8), nn.PReLU(8)

    def forward(self, x):
        return self.head(self.act(self.table(self.stem(x)).flatten(2)).view(2, 8, 8, 8))


@network(group(8, out("stem"), into("head")))
class PreluShared(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU()

    def forward(self, x):
        return self.head(self.act(self.stem(x)))


@network(
    group(8, axis("table.weight", 1, "affine"), into("fc1")),
    group(6, out("fc1"), into("fc2")),
    frozen={("table.weight", 0): "embedding", ("fc2.weight", 0): "output", ("fc2.bias", 0): "output"},
    ends=False,
)
class Embedding(nn.Module):
    """A table whose rows are chosen by numbers worked out from the image."""

    def __init__(self):
        super().__init__()
        self.table, self.fc1, self.fc2 = nn.Embedding(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        rows = (x.mean((1, 2, 3)) > 0).long()
        return self.fc2(functional.relu(self.fc1(self.table(rows))))


@network(group(8, out("stem"), axis("mix", 0, "consumer")), group(6, axis("mix", 1, "producer"), into("head")))
class BareMatrix(Net):
    def __init__(self):
        super().__init__(8, 6)
        self.mix = nn.Parameter(torch.randn(8, 6))

    def forward(self, x):
        return self.head(functional.relu(torch.einsum("bchw,co->bohw", self.stem(x), self.mix)))


@network(group(8, out("stem"), into("main"), into("aux")), group(6, out("main"), into("head")),
         frozen={("aux.weight", 0): "output", ("aux.bias", 0): "output"})  # fmt: skip
class AuxiliaryHead(Net):
    """The auxiliary classifier runs in training only, and still reads the same channels."""

    def __init__(self):
        super().__init__(8, 6)
        self.main, self.aux = nn.Conv2d(8, 6, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        result = self.head(functional.relu(self.main(x)))
        return (result, self.aux(x)) if self.training else result


@network(
    group(8, out("stem"), into("head")),
    frozen={
        **{(f"spare.{kind}", 0): "does not use" for kind in ("weight", "bias")},
        ("spare.weight", 1): "does not use",
    },
)
class UnusedLayer(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(functional.relu(self.stem(x)))
