"""Networks whose parameters are divided among the processes, torch's FSDP2: each keeps a part of every parameter.

A unit, a module with everything in it that is in no smaller unit, is put together only while it computes. So all
processes have to run the same passes through a divided network, the same number of times.

torch is built without all of this where it has no `torch.distributed`, so it is imported only where it is needed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from surgeon.processes import group

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

NOT_DIVIDED = -1
"""The axis of a tensor that every process has whole, though it belongs to the parts."""


def can_divide_on(device: torch.device) -> bool:
    """Tell whether there are several processes, and they can exchange what is on this device."""
    return group.count() > 1 and group.meeting_place(device).type == device.type


def divide(model: nn.Module, device: torch.device, is_unit: Callable[[nn.Module], bool], *, free: bool = True) -> None:
    """Divide a network's parameters along their first axis, in place, and move the parts and all buffers to a device.

    A frozen parameter without axes stays whole.

    Args:
        model: the network, the same in all processes, not divided yet; unit by unit is moved to the device.
        device: one on which the processes can exchange tensors.
        is_unit: tells of a module whether it is a unit; the network itself is always one.
        free: keep no unit together from its forward to its backward pass.

    Raises:
        ValueError: two units share a parameter.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.data = parameter.data.contiguous()
    whole = {parameter for parameter in parameters if not parameter.dim()}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (group.count(),))
    containers = (nn.ModuleList, nn.ModuleDict)
    # From the inside out, so that what is in a unit already is left out of the next.
    for module in reversed(list(model.modules())):
        if module is model or (is_unit(module) and not isinstance(module, containers)):
            fully_shard(module, mesh=mesh, reshard_after_forward=free, ignored_params=whole)
    if len(list(model.parameters())) != len(parameters):
        raise ValueError("two units share a parameter.")


def is_divided(model: nn.Module) -> bool:
    """Tell whether a network was divided."""
    if group.count() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def put_apart(model: nn.Module) -> None:
    """Leave each process with its parts alone, if a divided network is still together after a forward pass."""
    if is_divided(model):
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _is_part(tensor: Tensor) -> "TypeGuard[DTensor]":
    if group.count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def axis_of(tensor: Tensor) -> int | None:
    """Return the axis that a tensor is divided along, `NOT_DIVIDED`, or None for an ordinary tensor."""
    if not _is_part(tensor):
        return None
    (placement,) = tensor.placements
    axis: int = getattr(placement, "dim", NOT_DIVIDED)
    return axis


def whole(tensor: Tensor) -> Tensor:
    """Return a divided tensor put together on the CPU, in every process; an ordinary one as it is.

    All processes call this together.
    """
    return tensor.full_tensor().cpu() if _is_part(tensor) else tensor


def part_of(values: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Divide a tensor that every process has.

    Args:
        values: the whole tensor, the same in all processes.
        like: a divided tensor, whose device it moves to.
        axis: of `axis_of`.

    Returns:
        This process's part; with `axis` None the tensor as it was given.
    """
    if axis is None:
        return values
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    assert _is_part(like)
    placement = Replicate() if axis == NOT_DIVIDED else Shard(axis)
    return distribute_tensor(values.detach(), like.device_mesh, [placement], src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a divided tensor that is here, or an ordinary tensor as it is."""
    return tensor.to_local() if _is_part(tensor) else tensor
