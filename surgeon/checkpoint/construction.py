"""Bounds on what a builder may make on a checkpoint's word."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules import module as registration

MOST_PARTS = 25_000
"""Modules, parameters and buffers of a network: no architecture of timm has a quarter of them."""

SPARE_BYTES = 2**27
"""Memory that a network may take besides that for its weights."""

WIDEST = 4
"""Bytes of a number in the network, where it may be a single one in the file."""


class ExcessError(RuntimeError):
    """A network that is larger than its checkpoint gives reason for."""


@contextmanager
def bounded(most_bytes: int | None) -> Iterator[None]:
    """Stop a builder that makes too much, as soon as it does.

    Args:
        most_bytes: memory of all parameters and buffers together; those without memory do not count. None for any.

    Raises:
        ExcessError: there are more than 25,000 parts, or they take more memory.
    """
    builder, parts, taken = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, taken
        # Others may build networks at the same time.
        if threading.get_ident() != builder:
            return
        parts += 1
        if isinstance(part, Tensor) and not part.is_meta:
            taken += part.nbytes
        if parts > MOST_PARTS:
            raise ExcessError(f"it has more than {MOST_PARTS} modules and tensors")
        if most_bytes is not None and taken > most_bytes:
            raise ExcessError(f"it takes more than {most_bytes} bytes, for which the file has no weights")

    handles = [
        registration.register_module_module_registration_hook(count),
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def most_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the memory that a network for these tensors may take: they are read as float32, whatever they are."""
    return WIDEST * sum(tensor.nbytes for tensor in tensors.values()) + SPARE_BYTES


def check_memory(model: nn.Module, limit: int) -> None:
    """Check how much memory a network would take that has none yet.

    Raises:
        ExcessError: it is more than the limit.
    """
    taken = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if taken > limit:
        raise ExcessError(f"it takes {taken} bytes, for which the file has no weights")
