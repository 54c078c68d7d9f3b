"""Adding rows to the rows of a table, the one operation behind class means and maps."""

from torch import Tensor


def add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add every row to the row of `sums` that its index names, in an order that is the same in every run.

    Args:
        sums: `[C, F]`, changed in place.
        index: `[B]` int64 in `0 … C - 1`, on the device of `sums`.
        rows: `[B, F]` of the type and on the device of `sums`.
    """
    if sums.device.type == "cuda":
        # There index_add_ adds atomically, in any order; an accumulating index_put_ sorts the index first.
        sums.index_put_((index,), rows, accumulate=True)
    else:
        sums.index_add_(0, index, rows)
