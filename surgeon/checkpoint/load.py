"""From a checkpoint file to a network, in one step."""

from pathlib import Path

from torch import nn

from surgeon.checkpoint.architecture import find_architecture
from surgeon.checkpoint.build import build
from surgeon.checkpoint.fit import fit
from surgeon.checkpoint.read import read


def load(path: str | Path, arch: str | None = None) -> nn.Module:
    """Build the network of a checkpoint and load it.

    Args:
        path: a .safetensors, .pt, .pth, .th, .tar or .bin file.
        arch: a timm name, `torchvision:NAME` or `file.py:function`; found from the checkpoint where it is None.

    Returns:
        The network on the CPU, in float32 and evaluation mode; its attribute `surgeon_architecture` says what it is.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the network.
        ArchitectureError: the network is unknown or cannot be built.
    """
    checkpoint = read(path)
    model = build(find_architecture(checkpoint, arch), checkpoint)
    fit(model, checkpoint)
    return model.eval()
