"""How a long loop tells that it moves, without knowing who listens."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Track = Callable[[Iterable[Any], str, int | None], Iterator[Any]]
"""`track(batches, description, total_images)` yields the batches and reports each one as it is consumed."""


def no_progress(batches: Iterable[Any], description: str, total_images: int | None = None) -> Iterator[Any]:
    """Yield the batches and report nothing."""
    del description, total_images
    yield from batches
