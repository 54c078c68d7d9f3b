"""The command line, called in the process of the test, and a network to call it with."""

import signal
import sys
from pathlib import Path

import pytest
import timm
import torch

from surgeon.cli.main import main

MODELS = Path(__file__).resolve().parents[1] / "models"
ARCH = f"{MODELS}/cifar_resnet.py:resnet20"
DIGITS = MODELS / "resnet20-digits.safetensors"
QUICK = ["--data", "digits", "--limit", "60", "--epochs", "1", "--workers", "0"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process and return its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)}
    monkeypatch.setattr(sys, "argv", ["surgeon", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return int(stopped.value.code or 0)


def small_network(classes: int = 10, channels: int = 3, seed: int = 0) -> torch.nn.Module:
    """Return a small residual network of timm's with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=classes, in_chans=channels)
