"""A small classifier and small data sets, for tests of training."""

import random

import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


def network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4, 3),
        )


def images(count: int = 24) -> TensorDataset:
    """Noise of three levels of brightness, one a class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 3
    return TensorDataset(torch.randn(count, 1, 6, 6, generator=generator) + labels[:, None, None, None], labels)


class Varied(Dataset):
    """Images that are varied by the random numbers of whoever reads them."""

    def __init__(self) -> None:
        self.data = images()
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(index)
        image, label = self.data[index]
        return image + torch.rand(()) + random.random() + float(numpy.random.rand()), label


def shuffled(dataset: Dataset, batch_size: int = 8, seed: int = 0, **options) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, generator=generator, **options)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
