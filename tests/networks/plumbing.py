"""Networks about how channels are carried along: added, joined, cut, interleaved, reshaped."""

import torch
from networks.base import Net, batch_norm, group, into, network, out
from torch import nn
from torch.nn import functional


@network(group(8, out("stem"), batch_norm("bn"), into("conv")), group(6, out("conv"), into("fc")), ends=False,
         frozen={("stem.weight", 1): "input", ("fc.weight", 0): "output", ("fc.bias", 0): "output"})  # fmt: skip
class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn, self.conv = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = self.conv(functional.max_pool2d(functional.relu(self.bn(self.stem(x))), 2))
        return self.fc(functional.relu(x).mean((2, 3)))


@network(group(8, out("stem"), out("conv2"), into("conv1"), into("head")), group(6, out("conv1"), into("conv2")))
class Residual(Net):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(functional.relu(x + self.conv2(functional.relu(self.conv1(x)))))


@network(
    group(8, out("stem"), into("conv1"), into("project")),
    group(6, out("conv1"), into("conv2")),
    group(10, out("conv2"), out("project"), into("head")),
)
class Projection(Net):
    def __init__(self):
        super().__init__(8, 10)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.Conv2d(6, 10, 1)
        self.project = nn.Conv2d(8, 10, 1, stride=2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.project(x) + self.conv2(functional.relu(self.conv1(x))))


@network(
    group(4, out("stem"), into("conv1"), out("conv2", range(2, 6)), into("head", range(2, 6))),
    group(6, out("conv1"), into("conv2")),
    group(4, out("conv2", [0, 1, 6, 7]), into("head", [0, 1, 6, 7])),
)
class ZeroPaddedShortcut(Net):
    def __init__(self):
        super().__init__(4, 8)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(
            functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + self.conv2(functional.relu(self.conv1(x)))
        )


@network(
    group(4, out("stem"), into("conv1"), out("conv2", range(4)), into("head", range(4))),
    group(6, out("conv1"), into("conv2")),
    group(4, out("conv2", range(4, 8)), into("head", range(4, 8))),
)
class ZeroJoinedShortcut(Net):
    def __init__(self):
        super().__init__(4, 8)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        padded = torch.cat([x, torch.zeros_like(x)], 1)
        return self.head(padded + self.conv2(functional.relu(self.conv1(x))))


@network(
    group(4, out("stem"), into("conv1"), into("conv2"), into("head")),
    group(3, out("conv1"), into("conv2", range(4, 7)), into("head", range(4, 7))),
    group(3, out("conv2"), into("head", range(7, 10))),
)
class DenseConcat(Net):
    def __init__(self):
        super().__init__(4, 10)
        self.conv1, self.conv2 = nn.Conv2d(4, 3, 1), nn.Conv2d(7, 3, 1)

    def forward(self, x):
        x = [self.stem(x)]
        for conv in (self.conv1, self.conv2):
            x.append(functional.relu(conv(torch.cat(x, 1))))
        return self.head(torch.cat(x, 1))


@network(group(8, out("stem"), into("head", [(c, c + 8) for c in range(8)])))
class CatTwice(Net):
    def __init__(self):
        super().__init__(8, 16)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([x, x], 1))


@network(
    group(4, out("stem", range(4)), into("first", [(2 * c, 2 * c + 1) for c in range(4)])),
    group(4, out("stem", range(4, 8)), into("second", [(2 * c, 2 * c + 1) for c in range(4)])),
    frozen={(f"{name}.{kind}", 0): "output" for name in ("first", "second") for kind in ("weight", "bias")}
    | {("stem.weight", 1): "input"},
    ends=False,
)
class CatShuffled(Net):
    """x and relu(x) side by side, then interleaved, then cut in half: pairs that no permutation may tear apart."""

    def __init__(self):
        super().__init__()
        del self.head
        self.first, self.second = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, functional.relu(x)], 1)
        first, second = x.view(2, 2, 8, 8, 8).transpose(1, 2).flatten(1, 2).chunk(2, 1)
        return self.first(first) + self.second(second)


@network(
    group(3, out("stem", range(3)), into("conv")),
    group(5, out("stem", range(3, 8)), into("head", range(4, 9))),
    group(4, out("conv"), into("head", range(4))),
)
class Split(Net):
    def __init__(self):
        super().__init__(8, 9)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        first, second = self.stem(x).split([3, 5], 1)
        return self.head(torch.cat([functional.relu(self.conv(first)), second], 1))


@network(
    group(4, out("stem", [0, 1, 2, 3]), into("head", [0, 1, 2, 3])),
    group(4, out("stem", [4, 5, 6, 7]), out("conv"), into("conv"), into("head", [4, 5, 6, 7])),
)
class Chunk(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        first, second = self.stem(x).chunk(2, 1)
        return self.head(torch.cat([first, second + self.conv(functional.relu(second))], 1))


@network(
    group(4, out("stem", [0, 2, 4, 6]), into("even"), into("head", [0, 2, 4, 6])),
    group(2, out("stem", [1, 3]), into("odd"), into("head", [1, 3])),
    group(2, out("stem", [5, 7]), into("head", [5, 7])),
    frozen={(f"{name}.{kind}", 0): "output" for name in ("even", "odd") for kind in ("weight", "bias")},
)
class Slice(Net):
    def __init__(self):
        super().__init__()
        self.even, self.odd = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x) + self.even(x[:, ::2]) + self.odd(x[:, 1:5:2])


@network(
    group(4, out("stem", range(4)), into("head")),
    group(4, out("stem", range(4, 8)), into("conv")),
    group(3, out("conv"), into("head", range(4, 7))),
)
class Unbind(Net):
    def __init__(self):
        super().__init__(8, 7)
        self.conv = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        first, second = self.stem(x).unflatten(1, (2, 4)).unbind(1)
        return self.head(torch.cat([first, functional.relu(self.conv(second))], 1))


@network(group(8, out("stem"), into("conv1"), into("conv2")), group(6, out("conv1"), out("conv2"), into("head")))
class StackSum(Net):
    def __init__(self):
        super().__init__(8, 6)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.stack([self.conv1(x), functional.relu(self.conv2(x))]).sum(0))


@network(
    group(8, out("stem"), into("conv1"), into("conv2")),
    group(6, out("conv1"), into("head", range(0, 12, 2))),
    group(6, out("conv2"), into("head", range(1, 12, 2))),
)
class StackInterleave(Net):
    def __init__(self):
        super().__init__(8, 12)
        self.conv1, self.conv2 = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.stack([self.conv1(x), functional.relu(self.conv2(x))], 2).flatten(1, 2))


SHUFFLED = (
    group(4, out("stem", range(4)), into("conv1", rows=(0, 4))),
    group(4, out("stem", range(4, 8)), into("conv1", rows=(4, 8))),
    group(2, out("conv1", [0, 1]), into("conv2", [0, 2], rows=(0, 4))),
    group(2, out("conv1", [4, 5]), into("conv2", [1, 3], rows=(0, 4))),
    group(2, out("conv1", [2, 3]), into("conv2", [0, 2], rows=(4, 8))),
    group(2, out("conv1", [6, 7]), into("conv2", [1, 3], rows=(4, 8))),
    group(4, out("conv2", range(4)), into("head", range(4))),
    group(4, out("conv2", range(4, 8)), into("head", range(4, 8))),
)


@network(*SHUFFLED)
class ChannelShuffle(Net):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, groups=2)

    def forward(self, x):
        x = functional.relu(self.conv1(self.stem(x)))
        x = x.reshape(2, 2, 4, 8, 8).permute(0, 2, 1, 3, 4).reshape(2, 8, 8, 8)
        return self.head(self.conv2(x))


@network(*SHUFFLED)
class ChannelShuffleModule(ChannelShuffle):
    def forward(self, x):
        x = functional.relu(self.conv1(self.stem(x)))
        return self.head(self.conv2(functional.channel_shuffle(x, 2)))


@network(
    group(4, out("stem"), into("conv")),
    group(3, out("conv", [range(4 * c, 4 * c + 4) for c in range(3)]), into("head")),
)
class PixelShuffle(Net):
    def __init__(self):
        super().__init__(4, 3)
        self.conv = nn.Conv2d(4, 12, 1)

    def forward(self, x):
        return self.head(functional.pixel_shuffle(functional.relu(self.conv(self.stem(x))), 2))


@network(group(4, out("stem"), into("head", [range(4 * c, 4 * c + 4) for c in range(4)])))
class PixelUnshuffle(Net):
    def __init__(self):
        super().__init__(4, 16)

    def forward(self, x):
        return self.head(functional.pixel_unshuffle(functional.relu(self.stem(x)), 2))


@network(group(4, out("stem"), into("head", [range(c, 16, 4) for c in range(4)])))
class SpaceToDepth(Net):
    """The patch merging of hierarchical transformers: four strided slices side by side."""

    def __init__(self):
        super().__init__(4, 16)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)], 1))


@network(group(4, out("stem"), into("fc", [range(16 * c, 16 * c + 16) for c in range(4)])), ends=False,
         frozen={("stem.weight", 1): "input", ("fc.weight", 0): "output", ("fc.bias", 0): "output"})  # fmt: skip
class FlattenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(64, 2)

    def forward(self, x):
        return self.fc(torch.flatten(functional.max_pool2d(functional.relu(self.stem(x)), 2), 1))


@network(group(4, out("stem"), into("fc", [range(c, 64, 4) for c in range(4)])), ends=False,
         frozen={("stem.weight", 1): "input", ("fc.weight", 0): "output", ("fc.bias", 0): "output"})  # fmt: skip
class FlattenChannelsLast(FlattenLinear):
    def forward(self, x):
        return self.fc(functional.max_pool2d(functional.relu(self.stem(x)), 2).permute(0, 2, 3, 1).reshape(2, -1))


@network(
    group(8, out("stem"), out("fine"), into("coarse"), into("head")),
    group(8, out("coarse"), into("fine")),
)
class UpsampleAndFuse(Net):
    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        coarse = functional.interpolate(functional.relu(self.coarse(x)), scale_factor=2, mode="bilinear")
        return self.head(x + self.fine(coarse))


@network(group(8, out("stem"), into("head", [(c, c + 8) for c in range(8)])))
class Repeat(Net):
    def __init__(self):
        super().__init__(8, 16)

    def forward(self, x):
        return self.head(self.stem(x).repeat(1, 2, 1, 1))


@network(group(8, out("stem"), into("head", [(2 * c, 2 * c + 1) for c in range(8)])))
class RepeatInterleave(Net):
    def __init__(self):
        super().__init__(8, 16)

    def forward(self, x):
        return self.head(torch.repeat_interleave(self.stem(x), 2, dim=1))


@network(group(8, out("stem"), into("head")))
class PaddedImage(Net):
    def forward(self, x):
        x = functional.pad(self.stem(x), (1, 2, 3, 0))
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return self.head(functional.pad(x, (-2, 0, 0, -1))).roll(1, 3).flip(2)


@network(group(4, out("stem"), into("fc", [range(4 * c, 4 * c + 4) for c in range(4)])), ends=False,
         frozen={("stem.weight", 1): "input", ("fc.weight", 0): "output", ("fc.bias", 0): "output"})  # fmt: skip
class UnfoldedPatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.fc(functional.unfold(functional.relu(self.stem(x)), 2, stride=2).transpose(1, 2))


@network(group(4, out("stem"), into("conv")),
         group(3, out("conv", [range(4 * c, 4 * c + 4) for c in range(3)]), into("head")))  # fmt: skip
class FoldedPatches(Net):
    def __init__(self):
        super().__init__(4, 3)
        self.conv = nn.Conv2d(4, 12, 1)

    def forward(self, x):
        x = self.conv(self.stem(x)).flatten(2)
        return self.head(functional.fold(x, (16, 16), 2, stride=2))


class Outputs(nn.Module):
    """Features of two depths, in a container that the subclass chooses."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 6, 1)

    def features(self, x):
        fine = functional.relu(self.conv1(functional.relu(self.stem(x))))
        return fine, self.conv2(fine)


FEATURES = {
    ("stem.weight", 1): "input",
    **{(tensor, 0): "output" for tensor in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")},
    ("conv2.weight", 1): "output",
}


@network(group(8, out("stem"), into("conv1")), frozen=FEATURES, ends=False)
class DictOutput(Outputs):
    def forward(self, x):
        return dict(zip(("fine", "coarse"), self.features(x), strict=True))


@network(group(8, out("stem"), into("conv1")), frozen=FEATURES, ends=False)
class ListOutput(Outputs):
    def forward(self, x):
        return list(self.features(x))


@network(group(8, out("stem"), into("conv1")), frozen=FEATURES, ends=False)
class TupleOutput(Outputs):
    def forward(self, x):
        fine, coarse = self.features(x)
        return fine, (coarse, coarse.mean())
