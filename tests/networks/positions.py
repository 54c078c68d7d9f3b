"""Networks that write in place, or look at where a channel stands."""

import torch
from networks.base import Net, axis, group, into, network, out, vectors
from torch import nn
from torch.nn import functional


@network(group(8, out("stem"), out("conv"), into("conv"), into("head")))
class InPlace(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        y.relu_()
        y += x
        y *= 0.5
        return self.head(y.sigmoid_())


STEM, HEAD = {("stem.weight", 0): "", ("stem.bias", 0): ""}, {("head.weight", 1): ""}


@network(frozen={**STEM, **HEAD, ("conv.weight", 0): "", ("conv.bias", 0): "", ("conv.weight", 1): ""})
class ThroughViews(Net):
    """Writing a slice of zeros, adding to a slice, copying into one: the whole tensor is left alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        buffer = torch.zeros_like(x)
        buffer[:, :4] += self.conv(x)
        buffer[:, 4:].copy_(x[:, :4])
        return self.head(buffer + x)


@network(*[group(4, out("stem", at), into("head", at)) for at in ([0, 1, 2, 3], [4, 5, 6, 7])])
class OverwrittenLater(Net):
    """The tensor written through a view is never read again."""

    def forward(self, x):
        x = self.stem(x)
        y = x.clone()
        y[:, :4].zero_()
        return self.head(x)


@network(
    group(4, out("stem", range(4)), out("conv", range(4)), into("conv", range(4)), into("head", range(4))),
    group(4, out("stem", range(4, 8)), out("conv", range(4, 8)), into("conv", range(4, 8)), into("head", range(4, 8))),
)
class CopiedPart(Net):
    """Half of a tensor is replaced by half of another: the halves' channels stay one, in both tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        mixed = self.conv(x)
        mixed[:, 4:] = x[:, 4:]
        return self.head(x + mixed)


@network(
    group(4, out("stem", range(4)), into("head", range(4))),
    group(4, out("stem", range(4, 8)), out("conv", range(4, 8)), into("head", [(c, c + 8) for c in range(4, 8)])),
    group(4, out("conv", range(4)), into("head", range(8, 12))),
    frozen={("conv.weight", 1): "input"},
)
class CopiedPartOfAnother(Net):
    """The halves that are replaced are coupled to what replaces them; the first halves stay on their own."""

    def __init__(self):
        super().__init__(8, 16)
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        first, second = self.stem(x), self.conv(x)
        mixed = first.clone()
        mixed[:, 4:] = second[:, 4:]
        return self.head(torch.cat([mixed, second.relu()], 1))


@network(group(8, out("stem"), into("head")))
class CopiedWhole(Net):
    def forward(self, x):
        x = self.stem(x)
        buffer = torch.empty_like(x)
        buffer.copy_(x)
        return self.head(buffer)


@network(frozen={**STEM, **HEAD})
class FlippedChannels(Net):
    def forward(self, x):
        x = self.stem(x)
        return self.head(x + x.flip(1))


@network(frozen={**STEM, **HEAD})
class RolledChannels(Net):
    def forward(self, x):
        x = self.stem(x)
        return self.head(x + x.roll(2, 1))


@network(frozen={**STEM, **HEAD})
class GatheredChannels(Net):
    """A channel shuffle by a table of indices."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]), persistent=False)

    def forward(self, x):
        return self.head(self.stem(x)[:, self.order])


@network(group(8, out("stem"), into("head")))
class GatheredPixels(Net):
    """A table says which pixel of a row comes where; it is the same for all channels."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 7, 5, 4]), persistent=False)

    def forward(self, x):
        return self.head(self.stem(x).gather(3, self.order.expand(2, 8, 8, 8)))


@network(frozen={**STEM, **HEAD})
class GatheredPixelsByChannel(Net):
    """Every channel has an order of its own."""

    def forward(self, x):
        order = (torch.arange(8).view(1, 8, 1, 1) + torch.arange(8)) % 8
        return self.head(self.stem(x).gather(3, order.expand(2, 8, 8, 8)))


@network(
    group(4, out("stem", range(4)), into("head", range(4))),
    group(4, out("stem", range(4, 8)), into("head", range(4, 8))),
)
class ZeroedPart(Net):
    """Half of the channels is set to zero through a view: the halves do not mix."""

    def forward(self, x):
        x = self.stem(x)
        x[:, :4].zero_()
        return self.head(x.relu())


@network(
    group(5, out("stem", [0, 1, 5, 6, 7]), vectors("gamma", at=[0, 1, 5, 6, 7]), into("conv", [0, 1, 5, 6, 7])),
    group(3, out("stem", [2, 3, 4]), vectors("gamma", at=[2, 3, 4]), into("conv", [2, 3, 4])),
    group(8, out("conv"), into("head")),
)
class FilledPart(Net):
    """Three of the gains are set to one."""

    def __init__(self):
        super().__init__()
        self.conv, self.gamma = nn.Conv2d(8, 8, 1), nn.Parameter(torch.ones(8))

    def forward(self, x):
        gains = self.gamma.clone()
        gains[2:5].fill_(1)
        return self.head(self.conv(self.stem(x) * gains.view(1, 8, 1, 1)))


@network(
    *[group(4, out("stem", at), out("conv", at), into("conv", at), into("head", at)) for at in (range(4), range(4, 8))]
)
class FilledThroughAnotherShape(Net):
    """The first of two groups of channels, seen in a dimension of its own, is filled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        y.view(2, 2, 4, 8, 8)[:, 0].fill_(1)
        return self.head(y + x)


@network(frozen={("stem.weight", 0): "cumsum", ("stem.bias", 0): "cumsum", ("head.weight", 1): "order"})
class CumulatedChannels(Net):
    def forward(self, x):
        return self.head(self.stem(x).cumsum(1))


@network(group(8, out("stem"), into("head")))
class CumulatedPixels(Net):
    def forward(self, x):
        return self.head(self.stem(x).flip(3).cumsum(2).roll(1, 2))


@network(frozen={("stem.weight", 0): "sort", ("stem.bias", 0): "sort", ("head.weight", 1): "sort"})
class SortedChannels(Net):
    def forward(self, x):
        return self.head(self.stem(x).sort(1).values)


@network(frozen={("stem.weight", 0): "max", ("stem.bias", 0): "max"})
class WinningChannel(Net):
    """The number of the largest channel goes on, not only its value."""

    def __init__(self):
        super().__init__(8, 1)

    def forward(self, x):
        values, indices = self.stem(x).max(1, keepdim=True)
        return self.head(values * indices)


FOUR_GATES = [range(c, 24, 6) for c in range(6)]


@network(
    group(8, out("stem"), axis("lstm.weight_ih_l0", 1, "consumer")),
    group(
        6,
        *[axis(f"lstm.weight_{part}_l0", 0, "producer", FOUR_GATES) for part in ("ih", "hh")],
        *[vectors(f"lstm.bias_{part}_l0", at=FOUR_GATES) for part in ("ih", "hh")],
        axis("lstm.weight_hh_l0", 1, "consumer"),
        into("head"),
    ),
    shapes=[(2, 5, 3)],
)
class Recurrent(nn.Module):
    """The hidden state of an LSTM stands four times in its gates."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(6, 2)
        self.lstm = nn.LSTM(8, 6, batch_first=True)

    def forward(self, x):
        return self.head(functional.relu(self.lstm(self.stem(x))[0]))


def hidden_of(layer, size, gates, reads):
    """Expect the hidden state of a recurrent layer in its gates and in what reads it."""
    at = [tuple(range(c, gates * size, size)) for c in range(size)]
    return group(
        size,
        *[axis(f"{layer[0]}.weight_{part}_{layer[1]}", 0, "producer", at) for part in ("ih", "hh")],
        *[vectors(f"{layer[0]}.bias_{part}_{layer[1]}", at=at) for part in ("ih", "hh")],
        axis(f"{layer[0]}.weight_hh_{layer[1]}", 1, "consumer"),
        *reads,
    )


@network(
    group(8, out("stem"), axis("gru.weight_ih_l0", 1, "consumer"), axis("gru.weight_ih_l0_reverse", 1, "consumer")),
    hidden_of(("gru", "l0"), 5, 3, [into("head", range(5))]),
    hidden_of(("gru", "l0_reverse"), 5, 3, [into("head", range(5, 10))]),
    shapes=[(2, 4, 3)],
)
class GatedRecurrent(nn.Module):
    """A GRU in both directions: its hidden state stands three times in its gates."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(10, 2)
        self.gru = nn.GRU(8, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.head(functional.relu(self.gru(self.stem(x))[0]))


@network(
    group(8, out("stem"), axis("rnn.weight_ih_l0", 1, "consumer")),
    hidden_of(("rnn", "l0"), 5, 1, [axis("rnn.weight_ih_l1", 1, "consumer")]),
    hidden_of(("rnn", "l1"), 5, 1, [into("head")]),
    shapes=[(2, 4, 3)],
)
class PlainRecurrent(nn.Module):
    """Two layers without gates."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(5, 2)
        self.rnn = nn.RNN(8, 5, num_layers=2, batch_first=True)

    def forward(self, x):
        return self.head(functional.relu(self.rnn(self.stem(x))[0]))


@network(
    frozen={
        **{("stem." + kind, 0): "gru" for kind in ("weight", "bias")},
        **{(f"gru.{kind}_{part}_l0", 0): "gru" for kind in ("weight", "bias") for part in ("ih", "hh")},
        **{(f"gru.weight_{part}_l0", 1): "gru" for part in ("ih", "hh")},
        ("head.weight", 1): "recurrent",
    },
    shapes=[(2, 4, 3)],
)
class StartedRecurrent(nn.Module):
    """A state that the network starts from, and the last one: both are left alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(5, 2)
        self.gru = nn.GRU(8, 5, batch_first=True)

    def forward(self, x):
        return self.head(functional.relu(self.gru(self.stem(x))[1]))


@network(
    frozen={
        ("stem.weight", 0): "lstm",
        ("stem.bias", 0): "lstm",
        **{(f"lstm.{kind}_{part}_l0", 0): "output" for kind in ("weight", "bias") for part in ("ih", "hh")},
        ("lstm.weight_ih_l0", 1): "input",
        ("lstm.weight_hh_l0", 1): "output",
        ("head.weight", 1): "order",
    },
)
class RecurrentOverChannels(Net):
    """The channels are the steps of the sequence: their order matters."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(64, 64, batch_first=True)

    def forward(self, x):
        x = self.lstm(self.stem(x).flatten(2))[0]
        return self.head(x.view(2, 8, 8, 8))


@network(frozen={("stem.weight", 0): "fft", ("stem.bias", 0): "fft", ("head.weight", 1): ""})
class WithoutRule(Net):
    """An operation that no rule covers freezes what it touches, with its name as the reason."""

    def forward(self, x):
        return self.head(torch.fft.fft2(self.stem(x)).abs())


@network(frozen={**STEM, **HEAD, **{(f"conv.{kind}", 0): "" for kind in ("weight", "bias")}, ("conv.weight", 1): ""})
class Unpooled(Net):
    """SegNet: the places of the maxima belong to the channels, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x, places = functional.max_pool2d(self.stem(x), 2, return_indices=True)
        return self.head(functional.max_unpool2d(self.conv(x), places, 2))


@network(
    frozen={**STEM, ("table", 0): "index", ("table", 1): "", ("head.weight", 1): ""},
)
class IndexedByChannels(Net):
    """Every channel looks its own number up, so that the index carries the channels."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(2, 64))

    def forward(self, x):
        rows = (self.stem(x).mean((2, 3)) > 0).long()
        return self.head(self.table[rows].view(2, 8, 8, 8))


@network(frozen={**STEM, ("table.weight", 0): "", ("table.weight", 1): "", ("head.weight", 1): ""})
class EmbeddedChannels(IndexedByChannels):
    def __init__(self):
        super().__init__()
        del self.table
        self.table = nn.Embedding(2, 64)

    def forward(self, x):
        rows = (self.stem(x).mean((2, 3)) > 0).long()
        return self.head(self.table(rows).view(2, 8, 8, 8))


@network(frozen={**STEM, ("head.weight", 1): ""})
class CountedChannels(Net):
    def forward(self, x):
        hot = functional.one_hot((self.stem(x).flatten(2) > 0).long(), 2)[..., 1]
        return self.head(hot.view(2, 8, 8, 8).to(x.dtype))


@network(frozen={**STEM, ("head.weight", 1): ""})
class CausalChannels(Net):
    """Channels attend to earlier channels only."""

    def forward(self, x):
        x = self.stem(x).flatten(2)
        return self.head(functional.scaled_dot_product_attention(x, x, x, is_causal=True).view(2, 8, 8, 8))


@network(group(8, out("stem"), into("head")))
class AttendingChannels(Net):
    """Channels attend to each other without any order."""

    def forward(self, x):
        x = self.stem(x).flatten(2)
        return self.head(functional.scaled_dot_product_attention(x, x, x).view(2, 8, 8, 8))


@network(frozen={**STEM, ("head.weight", 1): ""})
class HalfChanged(Net):
    """A tensor of zeros stops being the same everywhere when a part of it changes."""

    def forward(self, x):
        x = self.stem(x)
        half = torch.zeros_like(x)
        half[:, :4].exp_()
        return self.head(x + half)


@network(group(8, out("stem"), into("head")))
class RandomDropped(Net):
    """Dropout and stochastic depth do nothing in evaluation, and are no obstacle."""

    def forward(self, x):
        x = functional.dropout(self.stem(x), 0.5, self.training)
        return self.head(functional.dropout2d(x, 0.5, self.training))
