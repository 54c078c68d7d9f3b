"""All tensors of a network by name, whether it is divided among processes or not."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from surgeon.processes.division import axis_of, part_of, whole


def network_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those that a state dict leaves out included."""
    both = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in both}


def whole_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the same; those of a divided network put together on the CPU, for which all processes call this."""
    return {name: whole(tensor) for name, tensor in network_tensors(module).items()}


def restore_network(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy tensors into a network.

    Args:
        module: the network. Where it or the tensors are divided, all processes call this together.
        saved: of `network_tensors`, or of `whole_tensors`.

    Raises:
        ValueError: they are not those of this network.
    """
    copy_tensors(network_tensors(module), saved)


def copy_tensors(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy tensors into others of the same names, shapes and dtypes; either may be divided, see `restore_network`."""
    if own.keys() != saved.keys():
        raise ValueError("the tensors have other names")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != saved[name].shape or tensor.dtype != saved[name].dtype:
                raise ValueError(f"{name} has another shape or dtype")
            axis = axis_of(tensor)
            if axis is not None:
                tensor.copy_(part_of(whole(saved[name]), tensor, axis))
                continue
            values = whole(saved[name]).to(tensor.device)
            # What never changes may share its memory between numbers, and could not be written to.
            if not torch.equal(tensor, values):
                tensor.copy_(values)
