"""Fully sharded training, FSDP, as `accelerate launch` or `accelerate config` asks for it.

accelerate itself wraps networks for it on GPUs only. Here the whole network, whose channels are traced, planned and
edited in whole tensors, stays on the CPU of every process, and what computes is a copy that is divided among them.
"""

import copy
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import nn

from surgeon.errors import DataError, OptionError
from surgeon.memory import is_shortage
from surgeon.processes import count
from surgeon.processes.division import can_divide_on, divide, is_divided, put_apart

VERSION = "2"


def asked_for() -> bool:
    """Tell whether this process was launched for fully sharded training."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def sharded(device: torch.device | str) -> bool:
    """Tell whether networks that compute on this device are divided among the processes."""
    return asked_for() and can_divide_on(torch.device(device))


def check_configuration(precision: str) -> None:
    """Refuse what accelerate's configuration asks for beside FSDP and is not carried out.

    Args:
        precision: the mixed precision that was chosen.

    Raises:
        OptionError: there is such a thing.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy

    plugin = _configured()
    refused = {
        "the offload of parameters to the CPU": (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "--fsdp_offload_params false",
        ),
        "activation checkpointing": (plugin.activation_checkpointing, "--fsdp_activation_checkpointing false"),
        "ignored modules": (plugin.ignored_modules is not None, "no --fsdp_ignored_modules"),
    }
    for name, (wanted, instead) in refused.items():
        if wanted:
            raise OptionError(f"With FSDP, {name} is not supported.", f"Launch with {instead}.")
    if precision == "fp16":
        raise OptionError(
            "With FSDP, the mixed precision fp16 is not supported.", "Choose the mixed precision bf16 or no."
        )


def check_accelerator(accelerator: Accelerator) -> None:
    """Refuse an accelerator that would wrap the network for FSDP itself.

    Raises:
        OptionError: it is one.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        raise OptionError(
            "The accelerator was made for FSDP, and would divide the network whose channels are edited.",
            "Take the accelerator of surgeon.tuning.make_accelerator, which reads the same configuration.",
        )


@contextmanager
def on_device(model: nn.Module, device: torch.device | str) -> Iterator[nn.Module]:
    """Give a network that computes on the device while the context lasts.

    Args:
        model: the network.
        device: where to.

    Yields:
        The network itself, moved there; where networks are sharded a divided copy of it, whose buffers (running
        statistics) the network takes over on leaving.
    """
    if not sharded(device):
        yield model.to(device)
    elif is_divided(model):
        yield model
        put_apart(model)
    else:
        copied = _divided_copy(model, device, free=True)
        yield copied
        _take_over_buffers(model, copied)


def _take_over_buffers(model: nn.Module, copied: nn.Module) -> None:
    own = dict(model.named_buffers())
    for name, other in copied.named_buffers():
        # A buffer of another size is one that the network makes anew as it needs it.
        if name in own and own[name].shape == other.shape and not torch.equal(own[name], other.to(own[name].device)):
            own[name].copy_(other)


def check_enough(model: nn.Module, images: int | None) -> None:
    """Refuse images that are not enough for every process of a divided network, which compute together or not at all.

    Args:
        model: the network, divided or not.
        images: how many there are, if that is known.

    Raises:
        DataError: they are fewer than the processes.
    """
    if images is not None and images < count() and is_divided(model):
        raise DataError(
            f"There are {images} images for {count()} processes, and with FSDP each of them needs one.",
            "Give more images, or start fewer processes.",
        )


def trained_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Return what is trained in a network's place: a divided copy where networks are sharded, else the network.

    Raises:
        OptionError: a parameter that is trained cannot be divided.
    """
    if not sharded(device):
        return model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.dim():
            raise OptionError(
                f"FSDP cannot divide the parameter {name}, which is a single number.",
                f"Freeze it (--freeze {name}), or launch without FSDP.",
            )
    return _divided_copy(model, device)


def _divided_copy(model: nn.Module, device: torch.device | str, *, free: bool | None = None) -> nn.Module:
    if torch.device(device).type != "cpu":
        # The modules of an earlier copy and what divides them know each other, and would stay there for a while.
        gc.collect()
    copied = copy.deepcopy(model)
    shard(copied, device, free=free)
    return copied


def shard(model: nn.Module, device: torch.device | str, *, free: bool | None = None) -> None:
    """Divide a network among the processes in place, into the units of accelerate's configuration.

    Args:
        model: the network, the same in all processes.
        device: where its parts go.
        free: keep no unit together between the passes; by default what the configuration says.

    Raises:
        OptionError: the configuration does not fit the network.
    """
    plugin = _configured()
    free = bool(plugin.reshard_after_forward) if free is None else free
    try:
        divide(model, torch.device(device), _units(plugin, model), free=free)
    except (ValueError, AssertionError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise OptionError(
            f"FSDP cannot divide the network as it is configured: {error}",
            "Choose other units (--fsdp_auto_wrap_policy), or launch without FSDP.",
        ) from error


def _configured() -> Any:
    """Return accelerate's configuration of FSDP."""
    # The older FSDP flattens parameters into one, which cannot be told apart any more, and wants a GPU to be described.
    if os.environ.get("FSDP_VERSION", "1") != VERSION:
        raise OptionError("Only the second version of FSDP is supported.", "Launch with --fsdp_version 2.")
    try:
        return FullyShardedDataParallelPlugin()
    except (ValueError, ImportError, KeyError) as error:
        raise OptionError(
            f"accelerate's configuration of FSDP cannot be read: {error}.", "Write it anew with `accelerate config`."
        ) from error


def _units(plugin: Any, model: nn.Module) -> Callable[[nn.Module], bool]:
    """Return what tells the modules that are put together by themselves."""
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    try:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
    except ImportError as error:
        raise OptionError("This version of accelerate knows no second version of FSDP.", "Upgrade it.") from error
    by_class = plugin.auto_wrap_policy is transformer_auto_wrap_policy
    if by_class and not (plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None)):
        raise OptionError(
            "The units of FSDP shall be modules of certain classes, and no class is named.",
            "Name them with --fsdp_transformer_layer_cls_to_wrap.",
        )
    try:
        policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    except ValueError as error:
        raise OptionError(
            str(error),
            "Name classes that every network of the run has, or choose --fsdp_auto_wrap_policy SIZE_BASED_WRAP.",
        ) from error
    # What is in torch's attention is read by it, and never called.
    inside = {
        part for module in model.modules() if isinstance(module, nn.MultiheadAttention) for part in module.children()
    }
    return lambda module: policy is not None and module not in inside and bool(policy(module))
