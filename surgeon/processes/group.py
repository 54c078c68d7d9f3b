"""The processes of a run: how many there are, which of them this is, and what they add up or hand to each other.

Every function but the first three is called by all processes, in the same order. With one process they do nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

MAIN = 0


def count() -> int:
    """Return the number of processes, 1 where none were launched together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Return the number of this process, 0 … `count() - 1`."""
    return dist.get_rank() if count() > 1 else MAIN


def is_main() -> bool:
    """Tell whether this is the process that decides, writes and talks."""
    return index() == MAIN


def from_main(value: T) -> T:
    """Return the value that the main process has; those of the others are not looked at."""
    if count() == 1:
        return value
    box: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(box, src=MAIN)
    received: T = box[0]
    return received


def everyones(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def add_up(tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes, in place, and return it.

    Args:
        tensor: of the same shape and dtype in every process, on any device.
    """
    if count() == 1:
        return tensor
    device = meeting_place(tensor.device)
    moved = tensor.to(device)
    dist.all_reduce(moved)
    return tensor if moved is tensor else tensor.copy_(moved)


def add_up_by_name(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add tensors up over all processes by name; one that a process lacks, as it saw no image, counts as zero there.

    Args:
        tensors: of the same shape and dtype, by name, in every process that has them; changed in place.

    Returns:
        The sums, one for every name that any process has.
    """
    if count() == 1:
        return dict(tensors)
    known = everyones({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    kinds = {name: kind for own in known for name, kind in own.items()}
    return {
        name: add_up(tensors[name] if name in tensors else torch.zeros(shape, dtype=dtype))
        for name, (shape, dtype) in kinds.items()
    }


def same_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the main process.

    Args:
        tensors: as many of the same shapes and dtypes in every process, on any device.
    """
    if count() == 1:
        return
    for tensor in tensors:
        # A buffer may be expanded from fewer numbers, which cannot be received into.
        values = tensor.detach().to(meeting_place(tensor.device)).contiguous()
        dist.broadcast(values, src=MAIN)
        if not is_main():
            tensor.data.copy_(values)


def meeting_place(device: torch.device) -> torch.device:
    """Return the device on which the processes can exchange what is on this one."""
    if device.type != "cpu" or any(name in str(dist.get_backend()) for name in ("gloo", "mpi")):
        return device
    accelerator = torch.accelerator.current_accelerator()
    return device if accelerator is None else torch.device(accelerator.type, torch.accelerator.current_device_index())
