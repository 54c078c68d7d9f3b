"""New values for re-initialized channels: the ones that the layer itself would start with."""

import copy

import torch
from torch import nn

NORM_START = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""A BatchNorm at its start, frozen ones included."""


def fresh_tensor(model: nn.Module, key: str, seed: int) -> torch.Tensor:
    """Return a tensor with the shape of the model's tensor `key`, filled as its layer initializes itself.

    BatchNorm starts at γ=1, β=0, μ=0, σ²=1; a layer with `reset_parameters` (all of PyTorch's) fills a copy of itself;
    for parameters that no layer knows how to start, the values are normal with the mean and standard deviation of the
    present ones.

    Args:
        model: the network; it stays as it is.
        key: state-dict key.
        seed: the same seed gives the same values, whatever the state of the global generators.
    """
    path, _, name = key.rpartition(".")
    owner = model.get_submodule(path)
    # The whole network's state dict for every tensor would make the cost grow with the square of the layers.
    present = owner.state_dict(keep_vars=True)[name].detach()
    if "running_var" in dict(owner.named_buffers(recurse=False)) and name in NORM_START:
        return torch.full_like(present, NORM_START[name])
    fresh = _reset(owner, name, seed)
    if fresh is not None and (not torch.equal(fresh.to(present), present) or _constant(fresh)):
        return fresh.to(present.device, present.dtype)
    generator = torch.Generator().manual_seed(seed)
    values = present.float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    noise = torch.randn(present.shape, generator=generator)
    return (noise * spread + float(values.mean())).to(present.device, present.dtype)


def _constant(values: torch.Tensor) -> bool:
    low, high = values.aminmax()
    return bool(low == high)


def _reset(owner: nn.Module, name: str, seed: int) -> torch.Tensor | None:
    """Return the tensor `name` of a copy of the layer that has reset itself; None for a layer that cannot."""
    if not callable(getattr(owner, "reset_parameters", None)):
        return None
    try:
        layer = copy.deepcopy(owner).to("cpu", torch.float32)
    except RuntimeError:
        # A weight that a hook computes is no leaf, and such tensors cannot be copied.
        return None
    reset = getattr(layer, "reset_parameters", None)
    assert callable(reset)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        reset()
    return layer.state_dict().get(name)
