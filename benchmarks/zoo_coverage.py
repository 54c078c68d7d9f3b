"""How many output channels of a network's convolutions and linear layers are in free groups, and why not the rest."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from surgeon.coupling import CouplingGraph
from surgeon.coupling.interpret import OUTPUT
from surgeon.coupling.trace import UNUSED

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NOT_COUNTED = (OUTPUT, UNUSED)


@dataclass(frozen=True)
class Layer:
    """The output channels of one convolution or linear layer."""

    kind: str
    weight: str
    dim: int
    channels: int


@dataclass(frozen=True)
class Coverage:
    """Counts of output channels, without those that are the network's output or that it never computes.

    Attributes:
        convolution: (free, counted) channels of convolutions.
        linear: (free, counted) channels of linear layers.
        reasons: channels that are not free, by the reason with the module's name taken out.
        left: the layers that are not wholly free: weight, free channels, counted channels, reasons.
    """

    convolution: tuple[int, int]
    linear: tuple[int, int]
    reasons: dict[str, int]
    left: tuple[tuple[str, int, int, str], ...]


def measure(model: nn.Module, submodule: str | None, graph: CouplingGraph) -> Coverage:
    """Return how many channels of the network's layers are in free groups of its graph."""
    canonical = _canonical_names(model)
    free: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in graph.groups:
        for member in group.members:
            offset = 0 if member.rows is None else member.rows.start * model.get_parameter(member.tensor).shape[1]
            is_rows = member.rows is not None and member.dim == 1
            places = member.positions.flatten() + (offset if is_rows else 0)
            free[canonical.get(member.tensor, member.tensor), member.dim].update(places.tolist())
    reasons: dict[tuple[str, int], list[str]] = defaultdict(list)
    for axis in graph.frozen:
        reasons[canonical.get(axis.tensor, axis.tensor), axis.dim].append(axis.reason)
    counts = {"convolution": [0, 0], "linear": [0, 0]}
    why: Counter[str] = Counter()
    left = []
    for layer in _layers(model, submodule, canonical):
        open_channels = min(len(free[layer.weight, layer.dim]), layer.channels)
        sentences = dict.fromkeys(reasons[layer.weight, layer.dim])
        rest = layer.channels - open_channels
        counted = layer.channels
        if rest and sentences and all(sentence in NOT_COUNTED for sentence in sentences):
            counted, rest = open_channels, 0
        counts[layer.kind][0] += open_channels
        counts[layer.kind][1] += counted
        if rest:
            text = " + ".join(sorted({normalized(s) for s in sentences if s not in NOT_COUNTED})) or "(no reason given)"
            why[text] += rest
            left.append((layer.weight, open_channels, counted, text))
    convolution, linear = counts["convolution"], counts["linear"]
    return Coverage((convolution[0], convolution[1]), (linear[0], linear[1]), dict(why), tuple(left))


def normalized(reason: str) -> str:
    """Return a reason without the module's name, e.g. `In …, aten.view fixes the positions.`"""
    text = re.sub(r" of '[^']*'", "", re.sub(r"\bIn [\w.\[\]@]+,", "In …,", reason))
    return re.sub(r"\b\d+\b", "N", text)


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Return, for every name of a parameter, the first name of the same parameter."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _layers(model: nn.Module, submodule: str | None, canonical: dict[str, str]) -> Iterator[Layer]:
    """Yield every convolution and linear layer with more than one output once; tied weights count once."""
    seen = set()
    for name, module in model.named_modules():
        if submodule and not f"{name}.".startswith(f"{submodule}."):
            continue
        for layer in _module_layers(f"{name}." if name else "", module):
            key = canonical.get(layer.weight, layer.weight)
            if key not in seen and layer.channels > 1:
                seen.add(key)
                yield Layer(layer.kind, key, layer.dim, layer.channels)


def _module_layers(prefix: str, module: nn.Module) -> Iterator[Layer]:
    if isinstance(module, nn.MultiheadAttention) and isinstance(module.in_proj_weight, torch.Tensor):
        yield Layer("linear", f"{prefix}in_proj_weight", 0, module.in_proj_weight.shape[0])
    if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        return
    weight = next((key for key in ("weight", "parametrizations.weight.original1", "weight_v") if _has(module, key)), "")
    if isinstance(module, nn.Linear):
        yield Layer("linear", prefix + weight, 0, module.out_features)
    elif isinstance(module, TRANSPOSED):
        yield Layer("convolution", prefix + weight, 1, module.out_channels)
    else:
        yield Layer("convolution", prefix + weight, 0, module.out_channels)


def _has(module: nn.Module, key: str) -> bool:
    return key in dict(module.named_parameters())
