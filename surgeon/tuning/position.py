"""Where a pass over the training images stands: their order, and how to go on in the middle."""

import copy
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from surgeon.processes import index, is_main
from surgeon.tuning.generators import apart, derived_seed

WORKERS = 2
"""Tells the seed of a process's workers from its other seeds."""


def order_images(loader: Any, epoch: int, seed: int) -> None:
    """Make the order of the images a matter of the epoch's number, and not of how many passes there were before.

    Of several processes the main one chooses the images. What the others would choose by seeds their workers instead,
    so that no two processes vary their images alike; but those that read a stream have to read the same.

    Args:
        loader: prepared by accelerate.
        epoch: number of the next pass, from 0.
        seed: of the run.
    """
    loader.set_epoch(epoch)
    alike = is_main() or isinstance(loader.dataset, IterableDataset)
    numbers = (seed, epoch) if alike else (seed, epoch, index(), WORKERS)
    for generator in _own_generators(loader):
        generator.manual_seed(derived_seed(*numbers))


def remaining(loader: Any, done: int, seed: int, device: torch.device) -> Iterable[Any]:
    """Return the batches of a pass after the first ones, the same as if those had been read.

    Images are read and dropped only where that can change the ones after them.

    Args:
        loader: prepared by accelerate, with the order of its images set.
        done: how many batches are left out.
        seed: of random numbers that are drawn to read images in this process, in 0..2³²-1.
        device: see `seeded`.
    """
    if keeps_to_itself(loader.dataset):
        return skip_first_batches(loader, done) if done else loader
    batches: Iterable[Any] = loader
    if not loader.num_workers:
        batches = apart(loader, seed, device)
    return islice(batches, done, None) if done else batches


def with_fresh_workers(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader whose random numbers start anew in every pass, as those of persistent workers would not."""
    if not loader.persistent_workers or keeps_to_itself(loader.dataset):
        return loader
    fresh = copy.copy(loader)
    # The loader allows no change of this attribute, but accelerate makes a new loader by it.
    vars(fresh)["persistent_workers"] = False
    return fresh


def keeps_to_itself(dataset: Dataset[Any]) -> bool:
    """Tell whether reading an item neither draws from the process's random numbers nor changes other items.

    A data set says so by an attribute `keeps_to_itself`.
    """
    if isinstance(dataset, Subset):
        return keeps_to_itself(dataset.dataset)
    return isinstance(dataset, TensorDataset) or bool(getattr(dataset, "keeps_to_itself", False))


def place_of(loader: Any) -> dict[str, Any]:
    """Return what decides the order of a loader's next pass: the states of its generators, and its sampler's epoch."""
    if not isinstance(loader, DataLoader):
        return {}
    place: dict[str, Any] = {"generators": [generator.get_state() for generator in _own_generators(loader)]}
    epoch = getattr(loader.sampler, "epoch", None)
    if isinstance(epoch, int):
        place["epoch"] = epoch
    return place


def put_back(loader: Any, place: dict[str, Any]) -> None:
    """Make the next pass of a loader the one that it would have been when `place_of` was asked."""
    if not place:
        return
    for generator, state in zip(_own_generators(loader), place["generators"], strict=True):
        generator.set_state(state)
    if "epoch" in place:
        loader.sampler.epoch = place["epoch"]


def _own_generators(loader: Any) -> list[torch.Generator]:
    sampler = loader.get_sampler() if hasattr(loader, "get_sampler") else loader.sampler
    held = (getattr(holder, "generator", None) for holder in (loader, sampler))
    return [generator for generator in held if isinstance(generator, torch.Generator)]
