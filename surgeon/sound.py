"""Whether the numbers of a network can be computed with: all of them finite, and no variance below zero."""

from collections.abc import Iterator
from math import isfinite

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the running means and variances of a network's normalization layers by state-dict key."""
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            for kind in ("running_mean", "running_var"):
                value = getattr(module, kind)
                if value is not None:
                    yield f"{name}.{kind}".lstrip("."), value


def not_finite(model: nn.Module) -> list[str]:
    """Return the keys of the parameters and running statistics that hold NaN or infinite values.

    Other buffers may: a mask of attention holds infinities.
    """
    numbers = [*model.named_parameters(), *statistics(model)]
    return [name for name, tensor in numbers if not is_finite(tensor)]


def negative_variances(model: nn.Module) -> list[str]:
    """Return the keys of the running variances with values below zero."""
    kept = [(name, value) for name, value in statistics(model) if name.endswith("running_var")]
    return [name for name, value in kept if value.numel() and bool((value < 0).any())]


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor has no NaN and no infinity; one of whole numbers, or without data, has none."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    # A NaN is both ends at once; and a mask of all values would take memory of its own.
    return all(isfinite(end) for end in tensor.detach().aminmax())
