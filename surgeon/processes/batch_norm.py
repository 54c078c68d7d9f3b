"""BatchNorm whose statistics are those of the batch of all processes together.

torch's SyncBatchNorm replaces the network's modules and runs on GPUs only. Here the modules stay what they are: for
the time of a BatchNorm's forward pass, the one function that it computes by is another.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.overrides import TorchFunctionMode

from surgeon.processes import group

_SIGNATURE = inspect.signature(functional.batch_norm)


@contextmanager
def synchronized_batch_norm(model: nn.Module) -> Iterator[None]:
    """Let the BatchNorms of a network that are in training mode normalize by all processes' images together.

    All processes have to run the same forward and backward passes meanwhile, each with at least one image. What the
    processes see may differ in size. Running statistics follow, equal in all processes. With one process nothing
    changes.

    Args:
        model: the network; a SyncBatchNorm in it goes its own way.

    Source: Ioffe and Szegedy, Batch Normalization, algorithm 1; the variance of parts is put together as by Chan et
        al., Algorithms for Computing the Sample Variance.
    """
    with ExitStack() as stack:
        if group.count() > 1:
            for module in model.modules():
                if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
                    mode = _Synchronized()
                    stack.callback(module.register_forward_pre_hook(_entering(mode)).remove)
                    stack.callback(module.register_forward_hook(_leaving(mode), always_call=True).remove)
        yield


def _entering(mode: TorchFunctionMode) -> Callable[[nn.Module, Any], None]:
    def enter(module: nn.Module, inputs: Any) -> None:
        mode.__enter__()

    return enter


def _leaving(mode: TorchFunctionMode) -> Callable[[nn.Module, Any, Any], None]:
    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        mode.__exit__(None, None, None)

    return leave


class _Synchronized(TorchFunctionMode):
    """Computes `functional.batch_norm` over all processes where it takes the statistics of the batch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if given.arguments.pop("training"):
                return _normalized(given.arguments.pop("input"), **given.arguments)
        return func(*args, **(kwargs or {}))


def _normalized(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    mean, var, size = _statistics(values)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * (size / (size - 1))).to(running_var), momentum)
    output: Tensor = _Normalize.apply(values, weight, bias, mean, var, size, eps)
    return output


def _axes(values: Tensor) -> list[int]:
    return [dim for dim in range(values.dim()) if dim != 1]


def _along_channels(vector: Tensor, values: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (values.dim() - 2))


def _exact(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@torch.no_grad()
def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance `[C]` over all processes, and how many values a channel has, `[1]`, 2 or more."""
    var, mean = torch.var_mean(_exact(values), _axes(values), correction=0)
    own = torch.cat([mean, var, mean.new_tensor([values.numel() / values.shape[1]])])
    rows = [torch.empty_like(own) for _ in range(group.count())]
    dist.all_gather(rows, own)
    means, variances, sizes = torch.stack(rows).split([len(mean), len(mean), 1], dim=1)
    size = sizes.sum(0)
    shares = sizes / size
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), size


class _Normalize(torch.autograd.Function):
    """Normalization by given statistics, differentiated as if every process's images were one batch."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        size: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, (var + eps).rsqrt(), size)
        return functional.batch_norm(values, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, scale, size = ctx.saved_tensors
        exact = _exact(grad)
        normalized = (_exact(values) - _along_channels(mean, values)) * _along_channels(scale, values)
        to_bias, to_weight = exact.sum(_axes(values)), (exact * normalized).sum(_axes(values))
        together = group.add_up(torch.stack([to_bias, to_weight])) / size
        rest = exact - _along_channels(together[0], values) - normalized * _along_channels(together[1], values)
        scaled = rest * _along_channels(scale if weight is None else scale * weight, values)
        _, for_weight, for_bias, *_ = ctx.needs_input_grad
        parameters = (to_weight if for_weight else None, to_bias if for_bias else None)
        return (scaled.to(values), *parameters, None, None, None, None)
