"""What to do when memory runs out."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from surgeon.errors import MemoryShortageError

SIGNS = (
    "DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "out of memory", "Cannot allocate memory", "out of shared memory",
    "killed by signal: Bus error", "killed by signal: Killed",
)  # fmt: skip
"""What torch says besides its own kind of error: on the CPU, in a library's handle, or of a worker that reads images.

Workers hand batches on through shared memory; where that is full they get a bus error, and where the computer has no
other memory left its system kills one.
"""

REMEDY = (
    "Take smaller batches (--batch-size; with --accumulate the updates stay as large), smaller images (--input-size), "
    "fewer processes that read them (--workers), or a lower precision (--mixed-precision bf16)."
)


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, of the computer or of its accelerator."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # That a worker has gone may be all that torch says in the end, and why is the cause of that.
    return any(sign in str(error) for sign in SIGNS) or (error.__cause__ is not None and is_shortage(error.__cause__))


@contextmanager
def named_shortage(remedy: str = REMEDY) -> Iterator[None]:
    """Say plainly when memory runs out, in place of what torch or Python says; also as a decorator.

    Args:
        remedy: what to do.

    Raises:
        MemoryShortageError: it ran out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise MemoryShortageError(f"The memory ran out: {reason}.", remedy) from error
