"""What a measurement reads: batches of images with their labels."""

from collections.abc import Iterable, Sized

from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]
"""`(images float32 [B, C, H, W], labels int64 [B])`, such as a DataLoader gives."""


def image_count(batches: Batches) -> int | None:
    """Tell how many images a DataLoader's data set has, None for batches that do not say."""
    dataset = getattr(batches, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None
