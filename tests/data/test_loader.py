"""Loaders: the same seed gives the same batches, in whatever number of processes, and leaves the global state alone."""

import os
import random
from dataclasses import replace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from surgeon.data import ImageConfig, make_loader, open_data

CONFIG = ImageConfig((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0)
DATA = open_data("digits", CONFIG, limit=60)


def _epoch(loader: DataLoader[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def _same(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_batches() -> None:
    loader = make_loader(DATA.val, batch_size=25)
    assert [len(labels) for _, labels in loader] == [25, 25, 10]
    assert len(make_loader(DATA.val, batch_size=25, drop_last=True)) == 2
    images, labels = next(iter(loader))
    assert images.shape == (25, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_validation_images_come_in_order_and_unchanged_every_time() -> None:
    loader = make_loader(DATA.val, batch_size=25)
    first = _epoch(loader)
    assert _same(first, _epoch(loader))
    assert torch.equal(first[0][7], DATA.val[7][0])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(workers: int) -> None:
    alone = make_loader(DATA.train, batch_size=16, shuffle=True, seed=5)
    shared = make_loader(DATA.train, batch_size=16, shuffle=True, seed=5, workers=workers)
    for _ in range(2):
        assert _same(_epoch(alone), _epoch(shared))


def test_augmentation_policies_follow_the_seed_alone() -> None:
    varied = open_data("digits", CONFIG, limit=20, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5).train
    epochs = []
    for noise, workers in ((1, 0), (2, 0), (3, 2)):
        np.random.seed(noise)
        state = np.random.get_state()[1].tolist()
        epochs.append(_epoch(make_loader(varied, batch_size=16, seed=5, workers=workers)))
        assert np.random.get_state()[1].tolist() == state
    assert _same(epochs[0], epochs[1])
    assert _same(epochs[0], epochs[2])


def test_every_epoch_differs_in_order_and_augmentation() -> None:
    loader = make_loader(DATA.train, batch_size=60, shuffle=True, seed=5)
    first, second = _epoch(loader), _epoch(loader)
    assert not torch.equal(first[1], second[1])
    assert torch.equal(first[1].sort().values, second[1].sort().values)
    fixed = make_loader(DATA.train, batch_size=60, seed=5)
    first, second = _epoch(fixed), _epoch(fixed)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])


def test_seeds_differ() -> None:
    first, second = (_epoch(make_loader(DATA.train, batch_size=60, shuffle=True, seed=seed)) for seed in (1, 2))
    assert not torch.equal(first[1], second[1])
    augmented = open_data("digits", CONFIG, seed=1).train, open_data("digits", CONFIG, seed=2).train
    assert not torch.equal(augmented[0][0][0], augmented[1][0][0])


def test_the_global_state_is_neither_read_nor_changed() -> None:
    large = open_data("digits", replace(CONFIG, input_size=(3, 72, 72)), limit=20)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), random.getstate()
        found.append(_epoch(make_loader(large.train, batch_size=20, shuffle=True, seed=5)))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
    assert _same(*found)


def test_accelerate_numbers_the_epochs() -> None:
    plain = make_loader(DATA.train, batch_size=16, shuffle=True, seed=5)
    prepared = accelerate.Accelerator(cpu=True).prepare(make_loader(DATA.train, batch_size=16, shuffle=True, seed=5))
    for _ in range(2):
        assert _same(_epoch(plain), _epoch(prepared))


def test_other_data_sets_are_shuffled_by_the_seed_too() -> None:
    dataset = TensorDataset(torch.arange(20.0), torch.arange(20))
    loaders = [make_loader(dataset, batch_size=20, shuffle=True, seed=seed) for seed in (3, 3, 4)]
    orders = [next(iter(loader))[1].tolist() for loader in loaders]
    assert orders[0] == orders[1] != orders[2]


class Group(Dataset):
    """Holds the number of the process group that reads it."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(os.getpgid(0)), 0


def test_a_signal_to_the_group_of_the_main_process_leaves_its_workers_at_work() -> None:
    own, theirs = (next(iter(make_loader(Group(), batch_size=1, workers=workers)))[0].item() for workers in (0, 1))
    assert own == os.getpgid(0) != theirs
