"""Bounds on what a builder may make on a checkpoint's word."""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from surgeon.checkpoint.state_dict import stored_bytes

MOST_PARTS = 25_000
"""Modules, parameters and buffers of a network: no architecture of timm has a quarter of them."""

MOST_CALLS = 200_000
"""Calls of torch while a network is built: of timm and torchvision, none takes a fifth of them."""

MOST_STEPS = 45_000_000
"""Calls and returns of any function meanwhile, which takes seconds: timm's tiny_vit_21m_512 has 40 million, and other
families of networks have less than a tenth of that."""

SPARE_BYTES = 2**27
"""Memory that a network may take besides that for its weights."""

LEEWAY = 16
"""As many times that may be made on the way by what takes no memory."""

WIDEST = 4
"""Bytes of a number in the network, where it may be a single one in the file."""


class ExcessError(RuntimeError):
    """A network that is larger than its checkpoint gives reason for."""


@contextmanager
def bounded(most_bytes: int | None, *, steps: bool = True) -> Iterator[None]:
    """Stop a builder that makes or computes too much, as soon as it does.

    Args:
        most_bytes: memory of all parameters and buffers together, and of what any computation gives; of what
            has no memory yet there may be 16 times as much, where no tensor counts for more. None for any.
        steps: count also what is computed without torch, unless a profiler or debugger is counting already.

    Raises:
        ExcessError: there are more than 25,000 parts, 200,000 calls of torch or 45 million calls and returns of any
            function, or they take more memory.
    """
    builder, parts, taken, planned = threading.get_ident(), 0, 0, 0
    # Held until the end: another tensor could get the identity of one that is gone.
    counted: dict[int, Tensor] = {}

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, taken, planned
        # Others may build networks at the same time.
        if threading.get_ident() != builder:
            return
        parts += 1
        if isinstance(part, Tensor) and id(part) not in counted:
            counted[id(part)] = part
            # What has no memory yet may be put away again, or a few tensors be of another size than in the file; see
            # `check_memory` for what is left.
            if part.is_meta:
                planned += min(part.nbytes, most_bytes or 0)
            else:
                taken += part.nbytes
        if parts > MOST_PARTS:
            raise ExcessError(f"it has more than {MOST_PARTS} modules and tensors")
        if most_bytes is not None and (taken > most_bytes or planned > LEEWAY * most_bytes):
            raise ExcessError(f"it takes more than {most_bytes} bytes, for which the file has no weights")

    handles = [
        registration.register_module_module_registration_hook(count),
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        with _Calls(most_bytes), _stopped_after(MOST_STEPS) if steps else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _stopped_after(most: int) -> Iterator[None]:
    """Stop what this thread does after so many calls and returns of functions, however they are nested."""
    if sys.getprofile() is not None:
        yield
        return
    left = most

    def count(frame: FrameType, event: str, of: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            # It is called no more then, and may only tell of it once.
            raise ExcessError(f"it takes more than {most} steps to build")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


class _Calls(TorchFunctionMode):
    """Counts what a builder computes, whatever becomes of it; of this thread alone."""

    def __init__(self, most_bytes: int | None) -> None:
        super().__init__()
        self.most_bytes, self.calls = most_bytes, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise ExcessError(f"it takes more than {MOST_CALLS} calls of torch to build")
        result = func(*args, **(kwargs or {}))
        if self.most_bytes is None or not isinstance(result, Tensor) or result.is_meta:
            return result
        if result.nbytes > self.most_bytes:
            raise ExcessError(f"it computes {result.nbytes} bytes, for which the file has no weights")
        return result


def most_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the memory that a network for these tensors may take: they are read as float32, whatever they are.

    What is tied counts once, as it does in the network: a file may have any number of names for one storage.
    """
    return WIDEST * stored_bytes(tensors) + SPARE_BYTES


def check_memory(model: nn.Module, limit: int) -> None:
    """Check how much memory a network would take that has none yet.

    Raises:
        ExcessError: it is more than the limit.
    """
    taken = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if taken > limit:
        raise ExcessError(f"it takes {taken} bytes, for which the file has no weights")
