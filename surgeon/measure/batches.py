"""What a measurement reads: batches of images with their labels."""

from collections.abc import Iterable

from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]
"""`(images float32 [B, C, H, W], labels int64 [B])`, such as a DataLoader gives."""
