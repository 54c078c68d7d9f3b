"""CIFAR-10, decoded once: for networks that are trained from scratch on a part of it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from surgeon.data import ImageConfig, open_data

BATCH = 128
HELD_OUT = 500
SCORED = 1_000
"""Test images that every epoch is scored on; the last one is scored on all of them."""


def decoded(data: Path, config: ImageConfig, images: int) -> dict[str, DataLoader[Any]]:
    """Return loaders of training images, of images that are held out of them, and of some and of all test images.

    Args:
        data: the folder of parquet files.
        config: how a network takes its images; they are not varied.
        images: how many to train on.
    """
    spec = f"hfds/{data.resolve()}"
    pixels, labels = _tensors(open_data(spec, config, limit=images + HELD_OUT, seed=0).calibration)
    test = _tensors(open_data(spec, config, seed=0).val)
    parts = {
        "train": (pixels[HELD_OUT:], labels[HELD_OUT:]),
        "held out": (pixels[:HELD_OUT], labels[:HELD_OUT]),
        "scored": (test[0][:SCORED], test[1][:SCORED]),
        "test": test,
    }
    return {name: DataLoader(TensorDataset(*tensors), batch_size=BATCH) for name, tensors in parts.items()}


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    pixels, labels = zip(*(dataset[number] for number in range(len(dataset))), strict=True)
    return torch.stack(pixels), torch.tensor(labels)
