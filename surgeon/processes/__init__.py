"""Several processes that do one job together: what each of them gets to see, and what they agree on."""

from surgeon.processes.batch_norm import synchronized_batch_norm
from surgeon.processes.group import (
    add_up,
    add_up_by_name,
    count,
    everyones,
    from_main,
    index,
    is_main,
    same_tensors,
)
from surgeon.processes.shares import is_share, is_uneven, own_count, shared

__all__ = [
    "add_up",
    "add_up_by_name",
    "count",
    "everyones",
    "from_main",
    "index",
    "is_main",
    "is_share",
    "is_uneven",
    "own_count",
    "same_tensors",
    "shared",
    "synchronized_batch_norm",
]
