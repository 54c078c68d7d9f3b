"""The command line, called in the process of the test."""

import signal
import sys
from pathlib import Path

import pytest

from surgeon.cli.main import main

MODELS = Path(__file__).resolve().parents[1] / "models"
ARCH = f"{MODELS}/cifar_resnet.py:resnet20"
DIGITS = MODELS / "resnet20-digits.safetensors"
QUICK = ["--data", "digits", "--limit", "60", "--epochs", "1", "--workers", "0"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process and return its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["surgeon", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    signal.signal(signal.SIGTERM, handler)
    return int(stopped.value.code or 0)
