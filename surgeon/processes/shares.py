"""Each process's share of the batches: together they see every image once, and none twice.

N processes with batches of b images see what one process would see with batches of N·b: each such batch is cut into
N pieces, one a process. Only the last batch may be smaller; its pieces differ by at most one image.
"""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Sampler

from surgeon.processes import group


def shared(batches: Iterable[Any], *, even: bool) -> Any:
    """Return this process's share of the batches.

    Args:
        batches: a DataLoader, or an iterable of `(images, labels)`. Of a DataLoader, b is its batch size, and an
            IterableDataset has to give the same items in every process, in the same order; the batches of another
            iterable are N·b images each, and the same in every process.
        even: give every process the same number of batches and at least one image of each, as is needed where the
            processes wait for each other in every batch. A last batch of fewer images than processes is left out.

    Returns:
        With one process what was given, else a DataLoader for a DataLoader, and an iterable of pieces for others.
    """
    if group.count() == 1:
        return batches
    if not isinstance(batches, DataLoader) or batches.batch_size is batches.batch_sampler is None:
        return _Pieces(batches, even)
    kept = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
            "generator", "prefetch_factor", "persistent_workers")  # fmt: skip
    options = {name: getattr(batches, name) for name in kept}
    if isinstance(batches.dataset, IterableDataset):
        stream = _StreamShare(batches.dataset, int(batches.batch_size or 1), even, batches.drop_last)
        return DataLoader(stream, batch_size=batches.batch_size, **options)
    return DataLoader(batches.dataset, batch_sampler=_BatchShare(batches.batch_sampler, even), **options)


def is_share(batches: Any) -> bool:
    """Tell whether batches are a share already."""
    parts = (batches, getattr(batches, "batch_sampler", None), getattr(batches, "dataset", None))
    return any(isinstance(part, (_Pieces, _BatchShare, _StreamShare)) for part in parts)


def own_count(images: int | None) -> int | None:
    """Return how many of so many images this process sees, a remainder left aside; None stays None."""
    return None if images is None else -(-images // group.count())


def _piece(size: int, even: bool) -> slice:
    """Return which of so many images of a batch are this process's: none of a batch that is left out."""
    processes, own = group.count(), group.index()
    if even and size < processes:
        return slice(0, 0)
    return slice(size * own // processes, size * (own + 1) // processes)


class _Pieces:
    """This process's piece of every batch."""

    def __init__(self, batches: Iterable[Any], even: bool) -> None:
        self._batches = batches
        self._even = even

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            piece = _piece(len(batch[0]), self._even)
            if piece.start != piece.stop:
                yield tuple(part[piece] for part in batch)


class _BatchShare(Sampler[list[Any]]):
    """This process's pieces of the batches of a batch sampler, which the main process alone asks for its choice.

    So a sampler may draw from random numbers that differ between the processes.
    """

    def __init__(self, batch_sampler: Any, even: bool) -> None:
        self.batch_sampler = batch_sampler
        # accelerate and the loop look for these on a batch sampler.
        self.sampler = getattr(batch_sampler, "sampler", None)
        self.batch_size = getattr(batch_sampler, "batch_size", None)
        self.drop_last = bool(getattr(batch_sampler, "drop_last", False))
        self._even = even

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the next pass on."""
        if hasattr(self.batch_sampler, "set_epoch"):
            self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.batch_sampler), group.count())
        if not rest or self.drop_last:
            return whole
        if self._even and self.sampler is not None and self.batch_size is not None:
            left = len(self.sampler) - whole * group.count() * self.batch_size
            return whole + (left >= group.count())
        return whole + 1

    def __iter__(self) -> Iterator[list[Any]]:
        batches: list[list[Any]] = group.from_main(list(self.batch_sampler) if group.is_main() else [])
        for start in range(0, len(batches), group.count()):
            together = batches[start : start + group.count()]
            if self.drop_last and len(together) < group.count():
                return
            items = [item for batch in together for item in batch]
            own = items[_piece(len(items), self._even)]
            if own:
                yield own


class _StreamShare(IterableDataset[Any]):
    """This process's pieces of the batches of a stream that every process reads to its end."""

    def __init__(self, stream: IterableDataset[Any], batch_size: int, even: bool, drop_last: bool) -> None:
        self.stream = stream
        self._together = batch_size * group.count()
        self._even = even
        self._drop_last = drop_last
        # A worker of a DataLoader knows no process group.
        self._cut = {size: _piece(size, even) for size in range(1, self._together + 1)}

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the next pass on."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)

    def __len__(self) -> int:
        """The images of this process, where the stream tells how many there are."""
        if not isinstance(self.stream, Sized):
            raise TypeError("The stream does not tell its length.")
        whole, rest = divmod(len(self.stream), self._together)
        own = self._cut.get(rest, slice(0, 0)) if not self._drop_last else slice(0, 0)
        return whole * (self._together // group.count()) + own.stop - own.start

    def __iter__(self) -> Iterator[Any]:
        items = []
        for item in self.stream:
            items.append(item)
            if len(items) == self._together:
                yield from items[self._cut[len(items)]]
                items = []
        if items and not self._drop_last:
            yield from items[self._cut[len(items)]]
