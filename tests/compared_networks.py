"""Networks on which methods are compared with plain loops over the state dict."""

import copy
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import surgeon
from surgeon.coupling import CouplingGraph

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKPOINTS = REPOSITORY.parent / "shared" / "data" / "checkpoints"
SHARED = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th", "resnet56": "resnet56-4bfd9763.th"}
NAMES = ["resnet50", "mobilenetv2_100", "shufflenet_v2_x0_5", "efficientnet_b0", *SHARED]


def network(name: str) -> tuple[nn.Module, CouplingGraph]:
    """Return a network of the test's own, and its coupling graph."""
    model, graph = _traced(name)
    return copy.deepcopy(model), graph


@cache
def _traced(name: str) -> tuple[nn.Module, CouplingGraph]:
    model = _build(name)
    return model, surgeon.trace(model)


def _build(name: str) -> nn.Module:
    """Return a network with weights of its own initialization, or a shared checkpoint's."""
    if name in SHARED:
        path = CHECKPOINTS / SHARED[name]
        if not path.exists():
            pytest.skip("the shared checkpoints are not beside the repository")
        return surgeon.load(path, arch=f"{REPOSITORY / 'models' / 'cifar_resnet.py'}:{name}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        if name.startswith("shufflenet"):
            return torchvision.models.get_model(name).eval()
        return timm.create_model(name).eval()


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a network's state dict."""
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


def modules_of(model: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Return the modules of some kinds by name, in their order in the network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
