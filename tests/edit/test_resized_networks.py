"""Real networks without their dead channels: what utilization says is left is what they have then."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from surgeon.checkpoint import build
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Resize, Width
from surgeon.edit.resizable import families, unresizable
from surgeon.edit.resized import prove_resize
from surgeon.measure.cost import cost
from surgeon.measure.utilization import dead_groups, utilization

MODELS = Path(__file__).resolve().parents[2] / "models"

# By network, how many groups keep their widths: the joined halves of padded shortcuts.
NETWORKS = {f"{MODELS}/cifar_resnet.py:resnet20": 2, "mobilenetv2_035": 0}


@pytest.mark.parametrize("name", NETWORKS, ids=lambda name: name.rpartition("/")[2])
def test_what_is_left_without_the_dead_channels_is_counted(name: str) -> None:
    torch.manual_seed(0)
    model = build(parse_architecture(name)).eval()
    images = torch.randn(2, 3, 32, 32)
    graph = trace(model, images)
    reasons = unresizable(model, graph, graph.groups, images)
    assert len(reasons) == NETWORKS[name]
    tensors = model.state_dict(keep_vars=True)
    chosen = [group for group in graph.groups if group not in reasons]
    for family in families(graph, chosen):
        for group in family:
            dying = torch.randperm(group.size)[: group.size // 3]
            for member in group.members:
                if member.role == "affine" and isinstance(model.get_submodule(owner(member.tensor)), nn.BatchNorm2d):
                    tensors[member.tensor].data[member.positions[dying].flatten()] = 0
    dead = dead_groups(graph, tensors)
    assert set(dead) <= set(chosen)
    used = utilization(graph, tensors)
    edit = Resize(
        tuple(
            Width(group, torch.tensor(sorted({*range(group.size)} - {*gone.tolist()})), 0)
            for group, gone in dead.items()
        ),
        seed=0,
    )
    assert cost(graph, tensors, {width.group: width.size for width in edit.widths}) == (
        used.effective_parameters,
        used.effective_flops,
    )
    assert 0 <= prove_resize(model, edit, images) < 1e-12
    execute(model, Plan("by hand", {}, (), (edit,)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images[:1])
    assert sum(parameter.numel() for parameter in model.parameters()) == used.effective_parameters < used.parameters
    assert counter.get_total_flops() == used.effective_flops < used.flops


def owner(key: str) -> str:
    return key.rpartition(".")[0]
