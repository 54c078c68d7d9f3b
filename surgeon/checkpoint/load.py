"""From a checkpoint file to a network, in one step."""

import warnings
from pathlib import Path

from torch import nn

from surgeon.checkpoint.architecture import find_architecture
from surgeon.checkpoint.build import build
from surgeon.checkpoint.fit import fit
from surgeon.checkpoint.precision import remember_types
from surgeon.checkpoint.read import Checkpoint, read


def load(path: str | Path, arch: str | None = None, weights: str | None = None) -> nn.Module:
    """Build the network of a checkpoint and load it.

    Args:
        path: a .safetensors, .pt, .pth, .th, .tar or .bin file.
        arch: a timm name, `torchvision:NAME` or `file.py:function`; found from the checkpoint where it is None.
        weights: the key of the weights to take where the file holds several, e.g. `model_ema`; a warning says which
            ones were taken without it.

    Returns:
        The network on the CPU, in float32 and evaluation mode; its attribute `surgeon_architecture` says what it is.
        What the file has in another type, such as float16, `save` writes back in that type.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the network.
        ArchitectureError: the network is unknown or cannot be built.
    """
    model, checkpoint = open_checkpoint(path, arch, weights)
    for note in checkpoint.notes:
        warnings.warn(note, stacklevel=2)
    return model


def open_checkpoint(
    path: str | Path, arch: str | None = None, weights: str | None = None
) -> tuple[nn.Module, Checkpoint]:
    """Do the same as `load`, and return what was read beside the network; its notes are the caller's to tell."""
    checkpoint = read(path, weights)
    model = build(find_architecture(checkpoint, arch), checkpoint)
    fit(model, checkpoint)
    remember_types(model, checkpoint.tensors)
    return model.eval(), checkpoint
