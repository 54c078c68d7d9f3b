"""A small network with two stages, and an input for it."""

import torch
from torch import nn

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
