"""The cost at other widths by hand, and as counted on networks that were really resized."""

import pytest
import torch
from nets import NETWORKS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Resize, Width
from surgeon.edit.resizable import families, unresizable
from surgeon.measure.cost import cost
from surgeon.measure.utilization import utilization
from surgeon.structure import CrossSets, attend


def measured(model: nn.Module, *images: torch.Tensor) -> tuple[int, int]:
    """Return the number of parameters, and of operations for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*images)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // len(images[0])


def test_a_network_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    graph = trace(model, torch.zeros(2, 2, 6, 8))
    tensors = model.state_dict(keep_vars=True)
    low, high, first, second = graph.groups
    assert cost(graph, tensors, {}) == measured(model, torch.zeros(2, 2, 6, 8))
    # Three channels and five filters a conv group: 6 · 2 · 9 weights, biases, scales and shifts; 10 · 3 · 9; 40 · 3.
    sizes = {low: 3, high: 3, first: 5, second: 5}
    assert cost(graph, tensors, sizes) == (108 + 18 + 270 + 123, 2 * (48 * 108 + 24 * 270 + 120))
    # One filter less in one conv group (no network has that) takes its two kernels and four columns along.
    assert cost(graph, tensors, {second: 2}) == (72 + 12 + 90 + 63, 2 * (48 * 72 + 24 * 90 + 60))


def test_weights_that_are_computed_are_applied_like_others() -> None:
    images = torch.zeros(2, 2, 6, 8)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(144, 3))
    before = cost(trace(model, images), model.state_dict(keep_vars=True), {})
    attend(model, "2", CrossSets((1, 4), (0, 2, 3)))
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(144, 3))
    for other, more in ((model, 0), (nn.Sequential(*model[:4], weighted), 3)):
        graph, tensors = trace(other, images), other.state_dict(keep_vars=True)
        found = cost(graph, tensors, {})
        assert found == measured(other, images) == (before[0] + more, before[1])
        used = utilization(graph, tensors)
        assert used.flops == used.effective_flops == sum(row.flops for row in used.layers) == before[1]


COUNTED = """Grouped TransposedGrouped DepthwiseMultiplier TransposedDepthwiseMultiplier DenseConcat FlattenLinear
CatTwice SqueezeExcite CalledTwice Conv3d AuxiliaryHead""".split()


@pytest.mark.parametrize("name", COUNTED)
def test_a_prediction_is_what_is_counted(name: str) -> None:
    network = NETWORKS[name]
    model = network.build()
    example = network.inputs()
    graph = trace(model, example)
    reasons = unresizable(model, graph, graph.groups, example)
    chosen = families(graph, [group for group in graph.groups if group not in reasons])
    sizes = {group: group.size + (-1, 2, 3)[number % 3] for number, family in enumerate(chosen) for group in family}
    predicted = cost(graph, model.state_dict(keep_vars=True), sizes)
    widths = [Width(g, torch.arange(min(g.size, size)), max(0, size - g.size)) for g, size in sizes.items()]
    assert widths
    execute(model, Plan("by hand", {}, (), (Resize(tuple(widths), 0),)))
    assert predicted == measured(model, *example)
