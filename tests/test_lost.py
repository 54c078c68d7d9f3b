"""Processes that die: what those that needed them say, in one sentence."""

import os
import signal
import time
from collections.abc import Callable

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from surgeon.data import make_loader
from surgeon.errors import LostProcessError, MemoryShortageError
from surgeon.lost import lost_process, named_loss
from surgeon.memory import named_shortage

DEATHS: dict[str, Callable[[], None]] = {
    "exit": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


class Deadly(Dataset):
    """Images of which one is the end of whoever reads it."""

    def __init__(self, death: str) -> None:
        self.death = death

    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        if place == 4:
            DEATHS[self.death]()
        return torch.zeros(1), 0


def read(dataset: Dataset) -> None:
    batches = iter(make_loader(dataset, batch_size=2, workers=1))
    try:
        for _ in batches:
            pass
        # torch hears of a death by a signal, which may come a little later than the failure.
        time.sleep(1)
    finally:
        if isinstance(batches, _MultiProcessingDataLoaderIter):
            batches._shutdown_workers()


@pytest.mark.parametrize("death", DEATHS)
def test_a_worker_that_dies_is_one_sentence(death: str) -> None:
    # A worker that is killed mostly was so for want of memory, as torch tells unless it only finds it gone.
    expected = (LostProcessError, MemoryShortageError) if death == "killed" else LostProcessError
    with pytest.raises(expected) as caught, named_loss(), named_shortage():
        read(Deadly(death))
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, LostProcessError):
        assert caught.value.problem.startswith("A process that reads images has died")
        assert "--workers 0" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "A process that reads images has died."),
        (
            "DataLoader worker (pid 12) is killed by signal: Segmentation fault. ",
            "A process that reads images has died (Segmentation fault).",
        ),
        (
            "DataLoader worker (pid 12) exited unexpectedly with exit code 3. Details are lost due to multiprocessing.",
            "A process that reads images has died (exit code 3).",
        ),
        (
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:5275.",
            "Another process of this run has ended, or cannot be reached any more.",
        ),
    ],
)
def test_what_torch_says(text: str, problem: str) -> None:
    lost = lost_process(RuntimeError(text))
    assert lost is not None
    assert lost.problem == problem


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not fit"),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError("images.txt"),
        KeyError("DataLoader worker (pid 1) exited unexpectedly"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert lost_process(error) is None
    with pytest.raises(type(error)), named_loss():
        raise error


class Missing(Dataset):
    """A data set of somebody's own that lacks a file."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        raise FileNotFoundError(2, "No such file", "my.npy")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_data_set_of_ones_own_is_no_loss(workers: int) -> None:
    batches = iter(make_loader(Missing(), batch_size=2, workers=workers))
    with pytest.raises(FileNotFoundError), named_loss():
        next(batches)
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()
