"""Batches of images."""

import os
import signal
from collections.abc import Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from surgeon.data.images import ImageTensors
from surgeon.data.on_device import DeviceImages
from surgeon.data.sampling import EpochSampler
from surgeon.data.streams import ImageStream


def make_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    workers: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """A loader whose batches depend on the data and the seed alone, not on the number of workers.

    Images that lie on the device are fetched there, batch by batch, without workers.

    Args:
        dataset: of `open_data`, or any other.
        batch_size: images a batch.
        workers: processes that read images; 0 reads them in this one.
        shuffle: a new order every epoch; streams shuffle themselves.
        seed: of the order.
        drop_last: leave an incomplete last batch out.
        pin_memory: put batches where a GPU fetches them faster.

    Returns:
        A loader of `(images, labels)`: float32 [B, C, H, W] and int64 [B].
    """
    on_device = isinstance(dataset, DeviceImages)
    if on_device:
        workers, pin_memory = 0, False
    if isinstance(dataset, ImageStream):
        dataset.prepare(workers)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=_sampler(dataset, shuffle, seed),
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=pin_memory,
        collate_fn=_whole if on_device else None,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_interrupts if workers else None,
        generator=torch.Generator().manual_seed(seed),
    )


def _whole(batch: Any) -> Any:
    """Batches that are fetched whole need no collating."""
    return batch


def _sampler(dataset: Dataset[Any], shuffle: bool, seed: int) -> Sampler[Any] | None:
    if isinstance(dataset, (ImageTensors, DeviceImages)):
        return EpochSampler(len(dataset), seed=seed, shuffle=shuffle)
    if shuffle and isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset):
        return RandomSampler(dataset, generator=torch.Generator().manual_seed(seed))
    return None


def _leave_interrupts(worker: int) -> None:
    """Leave it to the main process to obey Ctrl-C, which reaches its workers too: it may need one more batch."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        # torchrun sends what stops a process to all of its group.
        os.setpgid(0, 0)
