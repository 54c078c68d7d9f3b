"""Which images, and in which order: by a seed, and by nothing else."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


def stratified_subset(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Indices of at most `limit` images, with the classes in proportion.

    Args:
        labels: [N] int64.
        limit: at least 1.
        seed: decides which images of a class.

    Returns:
        [min(N, limit)] int64, ascending.
    """
    order, rank = _ranks(labels, seed)
    counts = torch.bincount(labels)[labels[order]]
    # Image r of a class of n stands at (r + 1/2) / n, so every prefix of the order by place is in proportion.
    places = (rank.double() + 0.5) / counts
    return order[torch.argsort(places, stable=True)[:limit]].sort().values


def spread_labels(count: int, classes: int) -> Tensor:
    """Labels for images that are to be made, spread evenly over the classes.

    Args:
        count: N, at least 1.
        classes: K, at least 1.

    Returns:
        [N] int64: every class in turn, and where N < K, N classes at equal distances, once each.
    """
    places = torch.arange(count)
    return places % classes if count >= classes else places * classes // count


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split the images in two, class by class.

    Args:
        labels: [N] int64.
        share: of every class that is held out, in [0, 1); at least one image of a class that has two.
        seed: decides which.

    Returns:
        Indices of the kept and of the held-out images, [N - M] and [M] int64, both ascending.
    """
    order, rank = _ranks(labels, seed)
    counts = torch.bincount(labels)
    held = torch.floor(counts * share + 0.5).long()
    held = torch.where(counts > 1, held.clamp(min=1), 0)
    out = rank < held[labels[order]]
    return order[~out].sort().values, order[out].sort().values


def _ranks(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A random order of the images, and the rank of each of them within its class in that order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = torch.argsort(labels[order], stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(labels)) - starts[labels[order][by_class]]
    return order, rank


class EpochSampler(Sampler[tuple[int, int]]):
    """Pairs of epoch and image: with the epoch an image can be varied anew each time, in any process.

    Args:
        size: number of images.
        seed: decides the order, together with the epoch.
        shuffle: a new permutation every epoch, instead of the data's order.
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Number the next pass; passes number themselves otherwise. accelerate calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        self.epoch += 1
        order = torch.arange(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(_mixed(self.seed, epoch)))
        return ((epoch, index) for index in order.tolist())


def _mixed(seed: int, epoch: int) -> int:
    # Far apart, so that epoch 1 of one seed is not epoch 0 of the next.
    return seed * 1_000_003 + epoch
