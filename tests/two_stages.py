"""A small network with two stages, an input for it, and images of as many levels of brightness as it has classes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 3
EXAMPLE = torch.zeros(2, 1, 8, 8)


class Two(nn.Module):
    """Two stages with BatchNorm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)
        self.num_classes = CLASSES

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(images)).mean((2, 3)))


def make_network() -> Two:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Two().eval()


def loader(count: int = 24, *, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return DataLoader(
        TensorDataset(images, labels),
        8,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(2) if shuffle else None,
    )


class StoppedError(Exception):
    """Ends a run in the middle."""


class Batches:
    """Counts the batches of training, and stops the run at one of them, from 1; None for at none."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.count = 0
        self._stop_at = stop_at

    def track(self, given: Any, description: str, total: int | None = None, *, training: Any = None) -> Iterator[Any]:
        """Yield the batches."""
        for batch in given:
            if training is not None:
                self.count += 1
                if self.count == self._stop_at:
                    raise StoppedError
            yield batch
