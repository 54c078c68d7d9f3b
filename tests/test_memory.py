"""Memory that runs out: on the CPU, on an accelerator, anywhere in a run."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ARCH, DIGITS, QUICK, call
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from two_stages import CLASSES, EXAMPLE, Two

import surgeon
from surgeon.errors import MemoryShortageError
from surgeon.memory import is_shortage, named_shortage

TOO_MUCH = 2**60


def ask_the_cpu() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def ask_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more to say.")


def ask_python() -> None:
    raise MemoryError


def ask_the_system() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def ask_a_worker() -> None:
    list(DataLoader(Killed(), num_workers=1))


class Killed(Dataset[Any]):
    """Images that the system kills whoever reads them for."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1)


def words(text: str) -> Callable[[], None]:
    def ask() -> None:
        raise RuntimeError(text)

    return ask


@pytest.mark.parametrize(
    "ask",
    [
        ask_the_cpu,
        ask_a_gpu,
        ask_python,
        ask_the_system,
        ask_a_worker,
        words("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        words(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit."
        ),
        words("unable to mmap 602112 bytes from file </torch_7_1>: Cannot allocate memory (12)"),
    ],
)
def test_every_kind_is_told_with_what_helps(ask: Callable[[], None]) -> None:
    with pytest.raises(MemoryShortageError) as caught, named_shortage():
        ask()
    assert caught.value.problem.startswith("The memory ran out: ")
    assert "\n" not in caught.value.problem
    for lever in ("--batch-size", "--accumulate", "--input-size", "--mixed-precision", "--workers"):
        assert lever in caught.value.remedy


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), named_shortage():
        raise RuntimeError("shapes cannot be multiplied")
    with pytest.raises(FileNotFoundError), named_shortage():
        Path("nowhere").read_bytes()
    assert not is_shortage(RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault."))
    assert not is_shortage(ValueError("out of memory"))


class Greedy(Two):
    """Asks for too much memory in training or in evaluation."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Not while the network is recorded, which computes nothing.
        real = images.device.type != "meta" and not torch.compiler.is_compiling()
        if real and self.training == (self.when == "training") and len(images) > 2:
            ask_the_cpu()
        return super().forward(images)


def loader() -> DataLoader[Any]:
    labels = torch.arange(12) % CLASSES
    return DataLoader(TensorDataset(torch.zeros(12, 1, 8, 8), labels), 6)


@pytest.mark.parametrize("when", ["training", "evaluation"])
def test_it_is_told_in_training_and_in_evaluation(when: str) -> None:
    with pytest.raises(MemoryShortageError):
        surgeon.finetune(Greedy(when), loader(), val=loader(), epochs=1)


def test_it_is_told_in_calibration(tmp_path: Path) -> None:
    graph = surgeon.trace(Two(), EXAMPLE)
    with pytest.raises(MemoryShortageError):
        surgeon.plan(Greedy("evaluation"), "sofm", ["two"], loader(), graph=graph)


def test_the_command_line_tells_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def forward(*arguments: Any, **options: Any) -> None:
        ask_the_cpu()

    monkeypatch.setattr(nn.functional, "cross_entropy", forward)
    assert call(monkeypatch, "evaluate", DIGITS, "--arch", ARCH, *QUICK[:4], "--workers", "0") == 1
    said = capsys.readouterr().err
    assert "Error: The memory ran out" in said
    assert "--batch-size" in said
