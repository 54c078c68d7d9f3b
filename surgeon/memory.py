"""What to do when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

from surgeon.errors import MemoryShortageError

SIGNS = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
"""What torch says besides its own kind of error: on the CPU, in a library's handle, or handed on by a worker."""

REMEDY = (
    "Take smaller batches (--batch-size; with --accumulate the updates stay as large), smaller images (--input-size), "
    "or a lower precision (--mixed-precision bf16)."
)


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, of the computer or of its accelerator."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def named_shortage() -> Iterator[None]:
    """Say plainly when memory runs out, in place of what torch or Python says; also as a decorator.

    Raises:
        MemoryShortageError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise MemoryShortageError(f"The memory ran out: {reason}.", REMEDY) from error
