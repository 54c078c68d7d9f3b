"""How many images a pass has, as those who watch it are told."""

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from surgeon.progress import count_images

TEN = TensorDataset(torch.zeros(10))


class Stream(IterableDataset):
    """Has the method, and no length."""

    def __iter__(self):
        return iter(TEN)

    def __len__(self) -> int:
        raise TypeError


def test_what_a_pass_leaves_out_is_not_counted_and_what_does_not_tell_has_no_count() -> None:
    assert count_images(DataLoader(TEN, 4)) == 10
    assert count_images(DataLoader(TEN, 4, drop_last=True)) == 8
    assert count_images(DataLoader(TEN, batch_sampler=[[0, 1], [2]])) == 10
    assert count_images(DataLoader(Stream(), 4)) is None
    assert count_images([(torch.zeros(1), torch.zeros(1))]) is None
