"""Networks about attention and other mixing of tokens; 2 heads of 4 channels unless they say otherwise."""

import torch
from networks.base import axis, group, into, network, out, scale_shift, vectors
from torch import nn
from torch.nn import functional

TOKENS = [(2, 6, 3)]
HEAD1, HEAD2 = range(4), range(4, 8)


def fused(*residual):
    """Expect the groups of a fused qkv layer: within each head, queries go with keys, and values with the output."""
    yield group(8, out("stem"), into("qkv"), out("proj"), into("head"), *residual)
    for head in (0, 4):
        yield group(4, out("qkv", [(head + c, 8 + head + c) for c in range(4)]))
        yield group(4, out("qkv", range(16 + head, 20 + head)), into("proj", range(head, head + 4)))


def separate():
    """Expect the groups of separate query, key and value layers."""
    yield group(8, out("stem"), into("q"), into("k"), into("v"), out("proj"), into("head"))
    for at in (HEAD1, HEAD2):
        yield group(4, out("q", at), out("k", at))
        yield group(4, out("v", at), into("proj", at))


class Tokens(nn.Module):
    """Linear layers at both ends, and a residual stream of 8 channels between them."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.mix(x))


class FusedTokens(Tokens):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v

    def mix(self, x):
        q, k, v = self.qkv(x).reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(2, 6, 8))


@network(*fused(), shapes=TOKENS)
class FusedAttention(FusedTokens):
    pass


@network(*fused(), shapes=TOKENS)
class FusedScaledDotProduct(FusedTokens):
    def attend(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)


@network(*fused(), shapes=TOKENS)
class CausalAttention(FusedTokens):
    def attend(self, q, k, v):
        scores = q @ k.transpose(-2, -1)
        return scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf).softmax(-1) @ v


@network(*separate(), shapes=TOKENS)
class SeparateAttention(Tokens):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))

    def mix(self, x):
        q, k, v = (layer(x).view(2, 6, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


@network(*separate(), shapes=TOKENS)
class EinsumAttention(SeparateAttention):
    def mix(self, x):
        q, k, v = (layer(x).view(2, 6, 2, 4) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("bnhc,bmhc->bhnm", q, k).softmax(-1)
        return self.proj(torch.einsum("bhnm,bmhc->bnhc", weights, v).reshape(2, 6, 8))


@network(
    group(8, out("stem"), into("qkv"), out("proj"), into("head")),
    group(
        4,
        out("qkv", [(c, 4 + c, 8 + c, 12 + c) for c in range(4)]),
        scale_shift("q_norm"),
        scale_shift("k_norm"),
    ),
    group(4, out("qkv", range(16, 20)), into("proj", HEAD1)),
    group(4, out("qkv", range(20, 24)), into("proj", HEAD2)),
    shapes=TOKENS,
)
class NormalizedQueries(FusedTokens):
    """One normalization serves the queries of all heads, and ties their channels together."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)

    def attend(self, q, k, v):
        return functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


ROTATED = {("qkv.weight", 0): "rotation", ("qkv.bias", 0): "rotation"}


@network(
    group(8, out("stem"), into("qkv"), out("proj"), into("head")),
    group(4, out("qkv", range(16, 20)), into("proj", HEAD1)),
    group(4, out("qkv", range(20, 24)), into("proj", HEAD2)),
    frozen=ROTATED,
    shapes=TOKENS,
)
class RotaryAttention(FusedTokens):
    """Queries and keys are rotated by angles that differ between channels."""

    def __init__(self):
        super().__init__()
        angle = torch.outer(torch.arange(6.0), torch.tensor([1.0, 0.1])).repeat(1, 2)
        self.register_buffer("rotation", torch.stack([angle.cos(), angle.sin()]), persistent=False)

    def rotate(self, x):
        cos, sin = self.rotation
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def attend(self, q, k, v):
        return super().attend(self.rotate(q), self.rotate(k), v)


@network(
    *fused(),
    frozen={("table", 0): "index", ("table", 1): ""},
    shapes=TOKENS,
)
class RelativePositionBias(FusedTokens):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 2))
        places = torch.arange(6)
        self.register_buffer("index", (places[:, None] - places[None] + 5).flatten(), persistent=False)

    def attend(self, q, k, v):
        bias = self.table[self.index].view(6, 6, 2).permute(2, 0, 1)
        return (q @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1) @ v


@network(
    *fused(),
    group(2, out("before"), into("after")),
    frozen={("before.weight", 1): "", ("after.weight", 0): "", ("after.bias", 0): ""},
    shapes=TOKENS,
)
class TalkingHeads(FusedTokens):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 2)

    def attend(self, q, k, v):
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).softmax(2)
        return self.after(scores).permute(0, 3, 1, 2) @ v


@network(*fused(), shapes=[(2, 4, 4, 3)])
class WindowAttention(FusedTokens):
    """A shifted grid of pixels, cut into 2 × 2 windows."""

    def mix(self, x):
        x = torch.roll(x, (-1, -1), (1, 2))
        x = x.view(2, 2, 2, 2, 2, 8).transpose(2, 3).reshape(8, 4, 8)
        q, k, v = self.qkv(x).view(8, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = self.proj(self.attend(q, k, v).transpose(1, 2).reshape(8, 4, 8))
        x = x.view(2, 2, 2, 2, 2, 8).transpose(2, 3).reshape(2, 4, 4, 8)
        return torch.roll(x, (1, 1), (1, 2))


@network(
    group(8, out("stem"), into("q"), into("kv"), out("proj"), into("head")),
    group(4, out("q", [(c, c + 4) for c in range(4)]), out("kv", range(4))),
    group(4, out("kv", range(4, 8)), into("proj", [(c, c + 4) for c in range(4)])),
    shapes=TOKENS,
)
class MultiQueryAttention(Tokens):
    """All heads share one key and one value."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def mix(self, x):
        q = self.q(x).view(2, 6, 2, 4).transpose(1, 2)
        k, v = self.kv(x).unsqueeze(1).chunk(2, -1)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


@network(
    group(8, out("stem"), into("q"), into("kv"), out("proj"), into("head")),
    *[group(4, out("q", [(h + c, h + c + 4) for c in range(4)]), out("kv", range(h // 2, h // 2 + 4))) for h in (0, 8)],
    *[
        group(4, out("kv", range(8 + h // 2, 12 + h // 2)), into("proj", [(h + c, h + c + 4) for c in range(4)]))
        for h in (0, 8)
    ],
    shapes=TOKENS,
)
class GroupedQueryAttention(Tokens):
    """Heads 0 and 1 share a key and a value, heads 2 and 3 another."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def mix(self, x):
        q = self.q(x).view(2, 6, 4, 4).transpose(1, 2)
        k, v = self.kv(x).view(2, 6, 2, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.proj(x.transpose(1, 2).flatten(2))


@network(*fused(), shapes=TOKENS)
class ZeroedKeyBias(FusedTokens):
    """The keys have no bias: their third of it is set to zero, through a view of a copy, before it is used."""

    def mix(self, x):
        bias = self.qkv.bias.clone()
        bias[8:16].zero_()
        x = functional.linear(x, self.qkv.weight, bias)
        q, k, v = x.reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(2, 6, 8))


def split_bias():
    """Expect the groups of a fused qkv layer whose queries and values have a bias each, and the keys none."""
    yield group(8, out("stem"), into("qkv"), out("proj"), into("head"))
    for head in (0, 4):
        places = range(head, head + 4)
        queries = [(head + c, 8 + head + c) for c in range(4)]
        yield group(4, out("qkv", queries, bias=False), vectors("q_bias", at=places))
        yield group(
            4, out("qkv", range(16 + head, 20 + head), bias=False), vectors("v_bias", at=places), into("proj", places)
        )


@network(*split_bias(), shapes=TOKENS)
class ConstantKeyBias(FusedTokens):
    """The keys' bias is a buffer of zeros that no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
        self.register_buffer("k_bias", torch.zeros(8), persistent=False)

    def mix(self, x):
        x = functional.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.k_bias, self.v_bias]))
        q, k, v = x.reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(2, 6, 8))


@network(*fused(), shapes=TOKENS)
class LinearAttention(FusedTokens):
    def attend(self, q, k, v):
        return functional.relu(q) @ (functional.relu(k).transpose(-2, -1) @ v)


@network(
    group(8, out("stem"), into("qkv"), out("proj"), into("head")),
    group(4, out("qkv", HEAD1), into("proj", HEAD1)),
    group(4, out("qkv", HEAD2), into("proj", HEAD2)),
    group(4, out("qkv", [(8 + c, 16 + c) for c in range(4)])),
    group(4, out("qkv", [(12 + c, 20 + c) for c in range(4)])),
    shapes=TOKENS,
)
class ChannelAttention(FusedTokens):
    """Cross-covariance attention: channels attend to channels, so that the queries write and keys meet values."""

    def attend(self, q, k, v):
        q, k = (functional.normalize(t, dim=-2) for t in (q, k))
        return ((q.transpose(-2, -1) @ k).softmax(-1) @ v.transpose(-2, -1)).transpose(-2, -1)


def packed(name, *residual):
    """Expect the groups of `nn.MultiheadAttention`."""
    weight, bias = f"{name}.in_proj_weight", f"{name}.in_proj_bias"
    yield group(8, out("stem"), axis(weight, 1, "consumer"), out(f"{name}.out_proj"), into("head"), *residual)
    for h in (0, 4):
        pairs, values = [(h + c, 8 + h + c) for c in range(4)], range(16 + h, 20 + h)
        yield group(4, axis(weight, 0, "producer", pairs), vectors(bias, at=pairs))
        into_projection = into(f"{name}.out_proj", range(h, h + 4))
        yield group(4, axis(weight, 0, "producer", values), vectors(bias, at=values), into_projection)


@network(*packed("attention"), shapes=TOKENS)
class MultiheadAttention(Tokens):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def mix(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


MLP = out("layer.linear2") + into("layer.linear1")


@network(
    *packed("layer.self_attn", MLP, scale_shift("layer.norm1"), scale_shift("layer.norm2")),
    group(12, out("layer.linear1"), into("layer.linear2")),
    shapes=TOKENS,
)
class TransformerLayer(Tokens):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

    def mix(self, x):
        return self.layer(x)


@network(
    group(8, out("stem"), scale_shift("ln"), into("head")),
    group(5, out("fc1"), into("fc2")),
    frozen={("fc1.weight", 1): "", ("fc2.weight", 0): "", ("fc2.bias", 0): ""},
    shapes=TOKENS,
)
class TokenMixing(Tokens):
    """MLP-Mixer: a linear layer over the tokens, whose positions are fixed by the image."""

    def __init__(self):
        super().__init__()
        self.ln, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(6, 5), nn.Linear(5, 6)

    def mix(self, x):
        return self.fc2(functional.gelu(self.fc1(self.ln(x).transpose(1, 2)))).transpose(1, 2)


@network(
    group(6, out("fc1", [(c, c + 6) for c in range(6)]), into("fc2")),
    group(8, out("stem"), into("fc1"), out("fc2"), into("head")),
    frozen={("mixer.weight", 0): "", ("mixer.weight", 1): "", ("mixer.bias", 0): ""},
    shapes=TOKENS,
)
class SpatialGating(Tokens):
    """gMLP: one half of the channels, mixed over the tokens, gates the other."""

    def __init__(self):
        super().__init__()
        self.fc1, self.mixer, self.fc2 = nn.Linear(8, 12), nn.Linear(6, 6), nn.Linear(6, 8)

    def mix(self, x):
        first, second = self.fc1(x).chunk(2, -1)
        return self.fc2(first * self.mixer(second.transpose(1, 2)).transpose(1, 2))
