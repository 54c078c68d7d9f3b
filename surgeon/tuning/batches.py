"""Batches of any structure."""

from collections.abc import Mapping
from typing import Any

from accelerate.utils import find_batch_size
from torch import Tensor

from surgeon.errors import DataError


def images_in(batch: Any) -> int:
    """Count the images of a batch by its first field.

    Args:
        batch: a tensor [B, …], or a tuple, list or mapping of fields, whose first is (or starts with) such a tensor, or
            is a list of B images [C, H, W], which may differ in size.

    Raises:
        DataError: there is no tensor to count by.
    """
    first = batch
    if isinstance(batch, (tuple, list, Mapping)):
        first = next(iter(batch.values() if isinstance(batch, Mapping) else batch), None)
    if isinstance(first, (tuple, list)) and first and all(_is_image(entry) for entry in first):
        return len(first)
    try:
        return int(find_batch_size(first))
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(
            "A batch of training images does not start with a tensor, so its images cannot be counted.",
            "Let the loader put the images first.",
        ) from error


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3
