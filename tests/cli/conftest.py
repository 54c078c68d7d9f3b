"""What the command line is called with."""

from pathlib import Path

import pytest
from command_line import DIGITS


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, in a folder of its own."""
    path = tmp_path / "digits.safetensors"
    path.write_bytes(DIGITS.read_bytes())
    return path
