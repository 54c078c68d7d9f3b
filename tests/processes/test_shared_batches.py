"""Shares of batches: every image once, in the batches that one process would see. The processes are counted by hand."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from surgeon.processes import group, is_uneven, own_count, shared


class Numbers(IterableDataset):
    """A stream of numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        return iter(range(self.size))


class Sized(Dataset):
    """The same as a data set."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        return place


@pytest.fixture
def shares_of(monkeypatch: pytest.MonkeyPatch):
    """Return the function that lists the batches of each of several processes in turn."""

    def shares(batches: object, processes: int, *, even: bool) -> list[list[list[int]]]:
        monkeypatch.setattr(group, "count", lambda: processes)
        monkeypatch.setattr(group, "is_main", lambda: True)
        monkeypatch.setattr(group, "from_main", lambda value: value)
        listed = []
        for own in range(processes):
            monkeypatch.setattr(group, "index", lambda own=own: own)
            share = shared(batches, even=even)
            listed.append([batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in share])
            if isinstance(batches, DataLoader) and (even or not isinstance(batches.dataset, IterableDataset)):
                assert len(share) == len(listed[-1]) or not listed[-1]
        return listed

    return shares


KINDS = {"map-style": Sized, "stream": Numbers}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 12, 13, 17])
def test_processes_together_see_the_batches_of_one(shares_of, kind: str, processes: int, size: int) -> None:
    data = KINDS[kind](size)
    together = [batch.tolist() for batch in DataLoader(data, batch_size=4 * processes)]

    shares = shares_of(DataLoader(data, batch_size=4), processes, even=False)
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(size))
    if size >= processes:
        assert len({len(share) for share in shares}) == 1
        assert max(len(batch) for share in shares for batch in share) <= 5

    shares = shares_of(DataLoader(data, batch_size=4), processes, even=True)
    fit = [batch for batch in together if len(batch) >= processes]
    assert [[number for part in parts for number in part] for parts in zip(*shares, strict=True)] == fit
    assert all(max(map(len, parts)) - min(map(len, parts)) <= 1 for parts in zip(*shares, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_drops_its_last_batch_drops_what_one_process_would(shares_of, kind: str) -> None:
    shares = shares_of(DataLoader(KINDS[kind](13), batch_size=3, drop_last=True), 2, even=True)
    assert shares == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]


def test_other_iterables_are_cut_batch_by_batch(shares_of) -> None:
    batches = [(torch.arange(5), torch.arange(5) + 10), (torch.tensor([5]), torch.tensor([15]))]
    [first, second] = shares_of(batches, 2, even=False)
    assert [(images.tolist(), labels.tolist()) for images, labels in first] == [([0, 1, 2], [10, 11, 12])]
    assert [(images.tolist(), labels.tolist()) for images, labels in second] == [([3, 4, 5], [13, 14, 15])]
    assert [len(share) for share in shares_of(batches, 2, even=True)] == [1, 1]


def test_one_process_gets_what_was_given() -> None:
    loader = DataLoader(TensorDataset(torch.arange(3)))
    assert shared(loader, even=True) is loader


def test_the_share_of_a_count_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_count(7) == 7
    monkeypatch.setattr(group, "count", lambda: 3)
    assert (own_count(7), own_count(6), own_count(None)) == (3, 2, None)


def test_only_a_last_batch_that_may_be_smaller_is_uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(loader: object) -> list[bool]:
        return [is_uneven(share, number) for share in [shared(loader, even=True)] for number in (1, 2, 3)]

    assert uneven(DataLoader(Sized(13), batch_size=2)) == [False] * 3
    monkeypatch.setattr(group, "count", lambda: 2)
    monkeypatch.setattr(group, "index", lambda: 0)
    # Eleven in batches of two times two leave three, which two processes cannot halve.
    assert uneven(DataLoader(Sized(11), batch_size=2)) == [False, False, True]
    assert uneven(DataLoader(Sized(12), batch_size=2, drop_last=True)) == [False] * 3
    assert uneven(DataLoader(Numbers(12), batch_size=2)) == [True] * 3
    groups = [[0, 1], [2, 3], [4], [5, 6]]
    assert uneven(DataLoader(Sized(7), batch_sampler=groups)) == [True] * 3


class Signals(Dataset):
    """How the process that reads takes an interrupt, and what group it is in."""

    seed = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> tuple[bool, int, int]:
        return signal.getsignal(signal.SIGINT) is signal.SIG_IGN, os.getpgid(0), Signals.seed


def _seed(worker: int) -> None:
    Signals.seed = 7 + worker


def test_workers_of_ones_own_loader_outlive_what_stops_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "count", lambda: 2)
    monkeypatch.setattr(group, "index", lambda: 0)
    monkeypatch.setattr(group, "is_main", lambda: True)
    monkeypatch.setattr(group, "from_main", lambda value: value)
    loader = DataLoader(Signals(), num_workers=1, worker_init_fn=_seed)
    ((deaf, process_group, seed),) = shared(loader, even=True)
    assert deaf.item()
    assert process_group.item() != os.getpgid(0)
    # What the loader's own function did is done as well.
    assert seed.item() == 7
