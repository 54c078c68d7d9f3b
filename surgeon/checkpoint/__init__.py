"""Checkpoint files: read safely, matched to an architecture, loaded strictly, written atomically."""

from surgeon.checkpoint.architecture import Architecture, find_architecture
from surgeon.checkpoint.build import build
from surgeon.checkpoint.fit import fit
from surgeon.checkpoint.load import load, open_checkpoint
from surgeon.checkpoint.read import Checkpoint, read
from surgeon.checkpoint.write import refuse_existing, save, write_bytes, write_tensors, write_text

__all__ = [
    "Architecture",
    "Checkpoint",
    "build",
    "find_architecture",
    "fit",
    "load",
    "open_checkpoint",
    "read",
    "refuse_existing",
    "save",
    "write_bytes",
    "write_tensors",
    "write_text",
]
