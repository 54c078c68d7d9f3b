"""Each process's share of the batches: together they see every image once, and none twice.

N processes with batches of b images see what one process would see with batches of N·b: each such batch is cut into
N pieces, one a process. Only the last batch may be smaller; its pieces differ by at most one image. All processes have
the same number of batches: a network that is divided among them computes in all of them at once, or not at all.
"""

import operator
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from surgeon.processes import group

T = TypeVar("T")


def shared(batches: Iterable[Any], *, even: bool) -> Any:
    """Return this process's share of the batches.

    Args:
        batches: a DataLoader, or an iterable of `(images, labels)`. Of a DataLoader, b is its batch size, and an
            IterableDataset has to give the same items in every process, in the same order; the batches of another
            iterable are N·b images each, and the same in every process.
        even: leave out a last batch of fewer images than processes. Otherwise it joins the batch before, whose pieces
            may then have `b + 1` images; where there is none before it, some processes have no batch.

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
    if batches.num_workers:
        options["worker_init_fn"] = _Deaf(batches.worker_init_fn)
    if isinstance(batches.dataset, IterableDataset):
        stream = _StreamShare(batches.dataset, int(batches.batch_size or 1), even, batches.drop_last)
        # Batches that may have an image more can only be made by the stream itself.
        return DataLoader(stream, batch_size=batches.batch_size if even else None, **options)
    return DataLoader(batches.dataset, batch_sampler=_BatchShare(batches.batch_sampler, even), **options)


@dataclass(frozen=True)
class _Deaf:
    """Lets workers outlive what stops the process that they read for, which may need one more batch to keep a state.

    A launcher sends such a signal to everything in a process's group.
    """

    own: Callable[[int], None] | None

    def __call__(self, worker: int) -> None:
        """Be called in a worker as it begins."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(os, "setpgid"):
            os.setpgid(0, 0)
        if self.own is not None:
            self.own(worker)


def is_share(batches: Any) -> bool:
    """Tell whether batches are a share already."""
    parts = (batches, getattr(batches, "batch_sampler", None), getattr(batches, "dataset", None))
    return any(isinstance(part, (_Pieces, _BatchShare, _StreamShare)) for part in parts)


def is_uneven(batches: Any, number: int) -> bool:
    """Tell whether the processes' pieces of a batch may differ in size; all processes are told the same.

    Args:
        batches: what `shared` returned, also as accelerate has prepared it.
        number: of the batch, from 1.
    """
    if group.count() == 1:
        return False
    share = getattr(batches, "batch_sampler", None)
    if isinstance(share, _BatchShare) and type(share.batch_sampler) is BatchSampler:
        # Only its last batch may be smaller than the others.
        return not share.drop_last and number >= len(share)
    return True


def own_count(images: int | None) -> int | None:
    """Return how many of so many images this process sees, a remainder left aside; None stays None."""
    return None if images is None else -(-images // group.count())


@dataclass(frozen=True)
class _Cut:
    """How batches of all processes are cut; a worker of a DataLoader, which knows no processes, is told so.

    Attributes:
        even: see `shared`.
        processes: how many there are.
        own: which of them this is.
    """

    even: bool
    processes: int
    own: int

    def piece(self, size: int) -> slice:
        """Return which of so many images of a batch are this process's."""
        return slice(size * self.own // self.processes, size * (self.own + 1) // self.processes)

    def fitting(self, batches: Iterable[T], size: Callable[[T], int], join: Callable[[T, T], T | None]) -> Iterator[T]:
        """Yield the batches, with those of fewer images than processes left out, or joined with the one before.

        Args:
            batches: of all processes together.
            size: tells how many images a batch has.
            join: puts two batches together, or returns None where they do not go together.
        """
        before: T | None = None
        for batch in batches:
            if self.even and size(batch) < self.processes:
                continue
            joined = None
            if before is not None and min(size(before), size(batch)) < self.processes:
                joined = join(before, batch)
            if before is not None and joined is None:
                yield before
            before = batch if joined is None else joined
        if before is not None:
            yield before


def _cut(even: bool) -> _Cut:
    return _Cut(even, group.count(), group.index())


class _Pieces:
    """This process's piece of every batch."""

    def __init__(self, batches: Iterable[Any], even: bool) -> None:
        self._batches = batches
        self._cut = _cut(even)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._cut.fitting(self._batches, lambda batch: len(batch[0]), _joined_parts):
            piece = self._cut.piece(len(batch[0]))
            if piece.start != piece.stop:
                yield tuple(part[piece] for part in batch)


def _joined_parts(one: Any, other: Any) -> Any:
    pairs = list(zip(one, other, strict=True))
    if not all(isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape[1:] == b.shape[1:] for a, b in pairs):
        return None
    return tuple(torch.cat(pair) for pair in pairs)


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
        self._cut = _cut(even)

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the next pass on."""
        if hasattr(self.batch_sampler, "set_epoch"):
            self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.batch_sampler), self._cut.processes)
        if not rest or self.drop_last:
            return whole
        if (self._cut.even or whole) and self.sampler is not None and self.batch_size is not None:
            left = len(self.sampler) - whole * self._cut.processes * self.batch_size
            return whole + (left >= self._cut.processes)
        return whole + 1

    def __iter__(self) -> Iterator[list[Any]]:
        batches: list[list[Any]] = group.from_main(list(self.batch_sampler) if group.is_main() else [])
        for items in self._cut.fitting(self._together(batches), len, operator.add):
            own = items[self._cut.piece(len(items))]
            if own:
                yield own

    def _together(self, batches: list[list[Any]]) -> Iterator[list[Any]]:
        """Yield the items of as many batches as there are processes."""
        for start in range(0, len(batches), self._cut.processes):
            together = batches[start : start + self._cut.processes]
            if self.drop_last and len(together) < self._cut.processes:
                return
            yield [item for batch in together for item in batch]


class _StreamShare(IterableDataset[Any]):
    """This process's pieces of the batches of a stream that every process reads to its end.

    They are given item by item where they are `even`, else as lists of items.
    """

    def __init__(self, stream: IterableDataset[Any], batch_size: int, even: bool, drop_last: bool) -> None:
        self.stream = stream
        self._cut = _cut(even)
        self._size = batch_size * self._cut.processes
        self._drop_last = drop_last

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the next pass on."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)

    def __len__(self) -> int:
        """The images of this process, where the stream tells how many there are."""
        if not isinstance(self.stream, Sized) or not self._cut.even:
            raise TypeError("The stream does not tell its length.")
        whole, rest = divmod(len(self.stream), self._size)
        left = 0 if self._drop_last or rest < self._cut.processes else rest
        own = self._cut.piece(left)
        return whole * (self._size // self._cut.processes) + own.stop - own.start

    def __iter__(self) -> Iterator[Any]:
        for items in self._cut.fitting(self._together(), len, operator.add):
            own = items[self._cut.piece(len(items))]
            if self._cut.even:
                yield from own
            elif own:
                yield own

    def _together(self) -> Iterator[list[Any]]:
        """Yield the items of batches of all processes."""
        items = []
        for item in self.stream:
            items.append(item)
            if len(items) == self._size:
                yield items
                items = []
        if items and not self._drop_last:
            yield items
