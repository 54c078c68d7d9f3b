"""What of a network is trained: which parameters have a gradient, and which BatchNorms keep their statistics."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from surgeon.errors import OptionError


@contextmanager
def frozen_parameters(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Give these parameters no gradient while the context lasts.

    Args:
        model: the network.
        names: names of parameters or buffers; a buffer has no gradient anyway.

    Raises:
        OptionError: the network has no parameter or buffer of such a name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    unknown = sorted(set(names) - parameters.keys() - dict(model.named_buffers(remove_duplicate=False)).keys())
    if unknown:
        raise OptionError(
            f"The network has no parameter named {', '.join(unknown[:10])}.",
            "Give names as they stand in the network's state dict.",
        )
    required = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for name in set(names) & parameters.keys():
            parameters[name].requires_grad_(False)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])


def train_unfrozen(model: nn.Module, frozen: Collection[str]) -> None:
    """Set the network to training, and its frozen BatchNorms to evaluation, which keeps their running statistics.

    Args:
        model: the network.
        frozen: names of parameters and buffers. A BatchNorm is frozen when all of its parameters are, and one that has
            none when its running mean is.
    """
    model.train()
    for module in frozen_batch_norms(model, frozen):
        module.eval()


def frozen_batch_norms(model: nn.Module, frozen: Collection[str]) -> list[nn.Module]:
    """Return the BatchNorms that are frozen; `frozen` as for `train_unfrozen`."""
    return [
        module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and _batch_norm_is_frozen(path, module, frozen)
    ]


def _batch_norm_is_frozen(path: str, module: _BatchNorm, frozen: Collection[str]) -> bool:
    prefix = f"{path}." if path else ""
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)] or [prefix + "running_mean"]
    return all(name in frozen for name in own)


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a network has layers that normalize by the statistics of a batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
