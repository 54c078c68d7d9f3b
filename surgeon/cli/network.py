"""The network that a command works on: a checkpoint's, or an architecture's without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.cli.voice import say
from surgeon.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn


def network(checkpoint: Path | None, arch: str | None, weights: str | None = None) -> nn.Module:
    """Return the network of a checkpoint, or a freshly initialized one of `--arch`, in evaluation mode.

    Raises:
        ArchitectureError: neither is given, or the architecture is unknown.
        CheckpointError: the file cannot be read or does not fit.
    """
    from surgeon.checkpoint import build, open_checkpoint
    from surgeon.checkpoint.architecture import parse_architecture

    if checkpoint is not None:
        model, opened = open_checkpoint(checkpoint, arch, weights)
        for note in opened.notes:
            say(note)
        return model
    if arch is None:
        raise ArchitectureError("There is no network to work on.", "Name a checkpoint, or an architecture with --arch.")
    return build(parse_architecture(arch)).eval()
