"""New values for re-initialized channels: the ones that the layer itself would start with."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from surgeon.edit.plan import PIECE

NORM_START = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""A BatchNorm at its start, frozen ones included."""

ROW_BY_ROW = (nn.Conv2d.reset_parameters, nn.Linear.reset_parameters)
"""PyTorch's own, of every convolution and of linear layers: they draw one weight after the other, from a range that
depends on the size of a row alone, and then the bias."""

Pieces = Iterator[tuple[int, torch.Tensor]]
"""Consecutive pieces of a tensor along axis 0: the number of the first row, and the rows."""


def fresh_rows(model: nn.Module, key: str, seed: int) -> Pieces:
    """Return the rows of a tensor with the shape of the model's tensor `key`, filled as its layer initializes itself.

    BatchNorm starts at γ=1, β=0, μ=0, σ²=1; a layer with `reset_parameters` (all of PyTorch's) fills a copy of itself;
    for parameters that no layer knows how to start, the values are normal with the mean and standard deviation of the
    present ones. Convolutions and linear layers are filled a few rows at a time, with the numbers that the whole layer
    would get, so that not even one layer is there twice.

    Args:
        model: the network; it stays as it is.
        key: state-dict key, of a tensor with at least one axis.
        seed: the same seed gives the same values, whatever the state of the global generators.

    Returns:
        All rows in order, in pieces, with the dtype and on the device of the model's tensor.
    """
    path, _, name = key.rpartition(".")
    owner = model.get_submodule(path)
    # The whole network's state dict for every tensor would make the cost grow with the square of the layers.
    present = owner.state_dict(keep_vars=True)[name].detach()
    if "running_var" in dict(owner.named_buffers(recurse=False)) and name in NORM_START:
        return iter([(0, torch.full_like(present, NORM_START[name]))])
    pieces = _started(_reset(owner, name, seed), present) or [(0, _noise(present, seed))]
    return ((start, rows.to(present.device, present.dtype)) for start, rows in pieces)


def _noise(present: torch.Tensor, seed: int) -> torch.Tensor:
    """Return normal values with the mean and standard deviation of the present ones."""
    values = present.float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    noise = torch.randn(present.shape, generator=torch.Generator().manual_seed(seed))
    return noise.mul_(spread).add_(float(values.mean()))


def _started(pieces: Pieces, present: torch.Tensor) -> Iterable[tuple[int, torch.Tensor]] | None:
    """Return the pieces, or None if the reset has left the present values as they are."""
    seen = []
    for start, rows in pieces:
        seen.append((start, rows))
        if not torch.equal(rows.to(present), present[start : start + len(rows)]) or _constant(rows):
            return itertools.chain(seen, pieces)
    return None


def _constant(values: torch.Tensor) -> bool:
    low, high = values.aminmax()
    return bool(low == high)


def _reset(owner: nn.Module, name: str, seed: int) -> Pieces:
    """Return the tensor `name` of a copy of the layer that has reset itself; nothing of a layer that cannot."""
    reset = getattr(owner, "reset_parameters", None)
    if not callable(reset):
        return iter(())
    own = dict(owner.named_parameters(recurse=False))
    known = {"weight", "bias"} & own.keys()
    by_rows = getattr(reset, "__func__", None) in ROW_BY_ROW and {"weight", name} <= known
    state = torch.Generator().manual_seed(seed).get_state()
    return _by_rows(owner, own, name, state) if by_rows else _at_once(owner, name, state)


def _at_once(owner: nn.Module, name: str, state: torch.Tensor) -> Pieces:
    layer = _copied(owner, {})
    if layer is not None:
        layer.to("cpu", torch.float32)
        _draw(layer, state)
        tensors = layer.state_dict()
        if name in tensors:
            yield 0, tensors[name]


def _by_rows(owner: nn.Module, own: dict[str, nn.Parameter], name: str, state: torch.Tensor) -> Pieces:
    """Do the same with a copy that has only a few rows, filled again and again; the bias comes after the last row."""
    weight = own["weight"].detach()
    layer = _copied(owner, {id(parameter): None for parameter in own.values()})
    if layer is None:
        return
    size = max(1, PIECE // weight[0].numel())
    for start, piece in zip(range(0, len(weight), size), weight.split(size), strict=True):
        # The layout in memory stays, because values are drawn in its order.
        rows = nn.Parameter(torch.empty_like(piece, device="cpu", dtype=torch.float32))
        bias = None
        if name == "bias" and start + len(piece) == len(weight):
            bias = nn.Parameter(torch.empty(own["bias"].shape))
        layer.register_parameter("weight", rows)
        layer.register_parameter("bias", bias)
        state = _draw(layer, state)
        if name == "weight":
            yield start, rows.detach()
        elif bias is not None:
            yield 0, bias.detach()


def _copied(owner: nn.Module, others: dict[int, Any]) -> nn.Module | None:
    """Return a copy of a layer; None if it cannot be copied.

    Args:
        owner: the layer.
        others: by `id`, what stands in the copy in the place of a part of the layer.
    """
    try:
        return copy.deepcopy(owner, others)
    except RuntimeError:
        # A weight that a hook computes is no leaf, and such tensors cannot be copied.
        return None


def _draw(layer: nn.Module, state: torch.Tensor) -> torch.Tensor:
    """Let a layer reset itself, and return the random generator's next state."""
    reset = getattr(layer, "reset_parameters", None)
    assert callable(reset)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.set_rng_state(state)
        reset()
        return torch.get_rng_state()
