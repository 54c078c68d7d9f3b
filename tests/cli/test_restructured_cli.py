"""Networks that get other widths and cross-attention on the command line: what is told, written, read and gone on with."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call, small_network
from torch import nn

import surgeon
from surgeon.structure import CrossAttentionConv2d, structure_of

METHOD = ("--method", "neural-rejuvenation", "--set", "in_place=false", "--set", "cross=attend", "--resource", "0.8")
DATA = ("--data", "digits", "--limit", "40", "--workers", "0", "--input-size", "32")


@pytest.fixture
def dying(tmp_path: Path) -> Path:
    """A network some of whose channels are dead."""
    model = small_network()
    for number, module in enumerate(one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        with torch.no_grad():
            module.weight.fill_(1.0)[number % 3 :: 3] = 0.0
    path = tmp_path / "test_resnet.safetensors"
    architecture = surgeon.checkpoint.architecture.parse_architecture("test_resnet")
    surgeon.save(model, path, architecture=architecture)
    return path
