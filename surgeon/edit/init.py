"""New values for re-initialized channels: the ones that the layer itself would start with."""

import copy
from collections.abc import Callable

import torch
from torch import nn


def fresh_tensor(model: nn.Module, key: str, seed: int) -> torch.Tensor:
    """Return a tensor with the shape of the model's tensor `key`, filled as its layer initializes itself.

    A layer with `reset_parameters` (all of PyTorch's) fills a copy of itself; for bare parameters, that no layer knows
    how to start, the values are normal with the mean and standard deviation of the present ones.

    Args:
        model: the network; it stays as it is.
        key: state-dict key.
        seed: the same seed gives the same values, whatever the state of the global generators.
    """
    path, _, name = key.rpartition(".")
    owner = model.get_submodule(path)
    present = model.state_dict(keep_vars=True)[key].detach()
    reset: Callable[[], None] | None = getattr(owner, "reset_parameters", None)
    if callable(reset):
        layer = copy.deepcopy(owner).to("cpu", torch.float32)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            layer.reset_parameters()  # type: ignore[operator]
        tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
        return tensors[name].detach().to(present.device, present.dtype)
    generator = torch.Generator().manual_seed(seed)
    values = present.float()
    spread = float(values.std()) if values.numel() > 1 else 0.0
    noise = torch.randn(present.shape, generator=generator)
    return (noise * spread + float(values.mean())).to(present.device, present.dtype)
