"""Utilization by hand on a tiny network, and by plain loops over the state dict on two real ones."""

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from surgeon.coupling import trace
from surgeon.measure.utilization import LayerUtilization, Utilization, dead_channels, inhibited_channels, utilization

IMAGE = (3, 64, 64)


def used_by(model: nn.Module, *size: int) -> Utilization:
    return utilization(trace(model, torch.zeros(2, *size)), model.state_dict(keep_vars=True))


def rows_of(used: Utilization) -> dict[str, LayerUtilization]:
    return {row.name: row for row in used.layers}


def test_dead_is_relative_and_inhibited_is_not() -> None:
    scale = torch.tensor([-2.0, 0.019, 0.02, -0.005, 0.0])
    assert dead_channels(scale).tolist() == [False, True, False, True, True]
    assert inhibited_channels(scale).tolist() == [False, False, False, True, True]
    # The paper's rule alone would call none of them dead.
    assert dead_channels(torch.zeros(3)).all()


@pytest.fixture
def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.001, 1.0, 1.0]))
        model[4].weight.copy_(torch.tensor([5.0, 5.0, 0.04, 5.0, 5.0, 5.0]))
    return model


def test_a_network_by_hand(tiny: nn.Sequential) -> None:
    used = used_by(tiny, 2, 6, 8)
    rows = rows_of(used)
    first, second, head = rows["0"], rows["3"], rows["8"]
    assert (first.filters, first.dead, first.inhibited) == (4, 1, 1)
    assert (second.filters, second.dead, second.inhibited) == (6, 1, 0)
    assert (head.filters, head.dead, head.inhibited) == (3, None, None)
    # 4 · 2 · 9 weights, 4 biases, 4 scales and shifts; without filter 1, a quarter less.
    assert (first.parameters, first.effective_parameters) == (84, 63)
    assert (first.flops, first.effective_flops) == (2 * 48 * 72, 2 * 48 * 54)
    # Filters 0 to 2 read channels 0 and 1, the others 2 and 3: filter 2 goes with both its kernels, filters 0 and 1
    # lose one kernel each, filters 3 to 5 none. With scales and shifts of five channels: (2 · 1 + 3 · 2) · 9 + 10.
    assert (second.parameters, second.effective_parameters) == (6 * 2 * 9 + 12, 82)
    assert (second.flops, second.effective_flops) == (2 * 12 * 108, 2 * 12 * 72)
    # The flattened channel has four columns.
    assert (head.parameters, head.effective_parameters) == (75, 63)
    assert (head.flops, head.effective_flops) == (2 * 72, 2 * 60)
    assert (used.parameters, used.effective_parameters) == (84 + 120 + 75, 63 + 82 + 63)
    assert used.parameter_share == pytest.approx(208 / 279)
    assert used.flop_share == pytest.approx((54 * 48 + 72 * 12 + 60) / (72 * 48 + 108 * 12 + 72))


def test_weak_and_overlap_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(10, 10, (1, 2), bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)).eval()
    with torch.no_grad():
        # Filter f is f + 1 times one row of 20 weights, so all point the same way: Σ = 9 / 10.
        model[0].weight.copy_(
            torch.arange(1.0, 11).reshape(10, 1, 1, 1) * torch.linspace(1, 2, 20).reshape(1, 10, 1, 2)
        )
    used = used_by(model, 10, 3, 3)
    row = used.layers[0]
    # The weakest floor(0.2 · 10) of the network are among the weakest 3 of the layer; a tenth of their ten kernels.
    assert (row.weak_filters, row.weak_kernels) == (2, 2)
    assert row.overlap_mean == pytest.approx(0.9)
    assert row.overlap_worst == pytest.approx(0.9)
    assert (used.layers[1].weak_filters, used.layers[1].overlap_mean) == (None, None)


def test_dead_channels_of_a_frozen_axis_save_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.eval()
    with torch.no_grad():
        model[1].weight[2] = 0
    row = used_by(model, 2, 4, 4).layers[0]
    assert (row.dead, row.parameters, row.effective_parameters) == (1, 16, 16)


def test_a_weight_of_two_modules_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    model[2] = model[0]
    used = used_by(model.eval(), 4, 4, 4)
    assert used.parameters == 4 * 4 + 4 + 64 * 2 + 2
    assert used.flops == 2 * (2 * 16 * 16 + 128)


def test_a_computed_weight_has_a_row_of_its_operations_alone() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1)), nn.ReLU(), nn.Conv2d(4, 3, 1))
    used = used_by(model.eval(), 2, 4, 4)
    assert (used.layers[0].filters, used.layers[0].overlap_mean) == (None, None)
    assert (used.layers[0].flops, used.layers[0].effective_flops) == (2 * 16 * 8, 2 * 16 * 8)
    assert used.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_json(tiny: nn.Sequential) -> None:
    used = used_by(tiny, 2, 6, 8)
    read = json.loads(json.dumps(dataclasses.asdict(used)))
    assert read["parameters"] == used.parameters
    assert [row["name"] for row in read["layers"]] == ["0", "3", "8"]
    assert read["layers"][2]["dead"] is None


@dataclass
class Known:
    """A layer as its author describes it: which named channels it reads and writes."""

    name: str
    norm: str | None
    reads: str
    writes: str
    depthwise: bool = False


def resnet18() -> list[Known]:
    layers = [Known("conv1", "bn1", "image", "layer1")]
    before = "layer1"
    for stage in range(1, 5):
        here = f"layer{stage}"
        for block in range(2):
            name = f"{here}.{block}"
            layers.append(Known(f"{name}.conv1", f"{name}.bn1", before, name))
            layers.append(Known(f"{name}.conv2", f"{name}.bn2", name, here))
            if stage > 1 and block == 0:
                layers.append(Known(f"{name}.downsample.0", f"{name}.downsample.1", before, here))
            before = here
    return [*layers, Known("fc", None, "layer4", "classes")]


def mobilenetv2() -> list[Known]:
    layers = [
        Known("conv_stem", "bn1", "image", "stem"),
        Known("blocks.0.0.conv_dw", "blocks.0.0.bn1", "stem", "stem", depthwise=True),
        Known("blocks.0.0.conv_pw", "blocks.0.0.bn2", "stem", "stage0"),
    ]
    before = "stage0"
    for stage, blocks in enumerate([2, 3, 4, 3, 3, 1], start=1):
        for block in range(blocks):
            name = f"blocks.{stage}.{block}"
            layers.append(Known(f"{name}.conv_pw", f"{name}.bn1", before, name))
            layers.append(Known(f"{name}.conv_dw", f"{name}.bn2", name, name, depthwise=True))
            layers.append(Known(f"{name}.conv_pwl", f"{name}.bn3", name, f"stage{stage}"))
            before = f"stage{stage}"
    return [*layers, Known("conv_head", "bn2", before, "head"), Known("classifier", None, "head", "classes")]


def dead_by_loops(layers: list[Known], state: dict[str, Tensor]) -> dict[str, set[int]]:
    """Return the channels below a hundredth of the largest scale: in the last norms of all that adds to them."""
    dead: dict[str, set[int]] = {}
    for layer in layers:
        if layer.norm is None:
            continue
        scale = [abs(value) for value in state[f"{layer.norm}.weight"].tolist()]
        own = {channel for channel, value in enumerate(scale) if value < 0.01 * max(scale)}
        so_far = dead.setdefault(layer.writes, own)
        dead[layer.writes] = own if layer.depthwise else so_far & own
    return dead


def kept_by_loops(layer: Known, shape: torch.Size, dead: dict[str, set[int]]) -> int:
    columns = set() if layer.depthwise else dead.get(layer.reads, set())
    entries = 0
    for row in range(shape[0]):
        for column in range(shape[1]):
            if row not in dead.get(layer.writes, set()) and column not in columns:
                entries += math.prod(shape[2:])
    return entries


def with_dead_scales(name: str, layers: list[Known]) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    generator = torch.Generator().manual_seed(1)
    whole = {group: torch.rand(4096, generator=generator) < 0.2 for group in {layer.writes for layer in layers}}
    with torch.no_grad():
        for layer in layers:
            if layer.norm is not None:
                scale = model.get_submodule(layer.norm).weight
                scale.copy_(torch.rand(scale.shape, generator=generator) + 0.5)
                # Some channels are dead in every norm on them, others in this one alone.
                dead = whole[layer.writes][: len(scale)] | (torch.rand(scale.shape, generator=generator) < 0.2)
                scale[dead] *= 0.006
    return model


@pytest.mark.parametrize(("name", "layers"), [("resnet18", resnet18()), ("mobilenetv2_050", mobilenetv2())])
def test_real_networks_by_plain_loops(name: str, layers: list[Known]) -> None:
    model = with_dead_scales(name, layers)
    state = model.state_dict()
    used = used_by(model, *IMAGE)
    rows = rows_of(used)
    assert set(rows) == {layer.name for layer in layers}
    dead = dead_by_loops(layers, state)
    assert sum(map(len, dead.values())) > 50
    weak = weak_by_loops([layer for layer in layers if state[f"{layer.name}.weight"].dim() == 4], state)
    full = kept = 0
    for layer in layers:
        row, weight = rows[layer.name], state[f"{layer.name}.weight"]
        entries = kept_by_loops(layer, weight.shape, dead)
        rest = [] if layer.norm is None else [f"{layer.norm}.weight", f"{layer.norm}.bias"]
        rest += [f"{layer.name}.bias"] if f"{layer.name}.bias" in state else []
        left = len(weight) - len(dead.get(layer.writes, ()))
        assert row.filters == len(weight)
        assert row.parameters == weight.numel() + sum(state[key].numel() for key in rest)
        assert row.effective_parameters == entries + left * len(rest), layer.name
        assert row.flops % (2 * weight.numel()) == 0
        assert row.effective_flops == row.flops // weight.numel() * entries
        full, kept = full + row.parameters, kept + row.effective_parameters
        assert (row.weak_filters, row.weak_kernels) == weak.get(layer.name, (None, None)), layer.name
        if layer.norm is not None:
            scale = [abs(value) for value in state[f"{layer.norm}.weight"].tolist()]
            assert row.dead == sum(value < 0.01 * max(scale) for value in scale)
            assert row.inhibited == sum(value < 0.01 for value in scale)
    assert (used.parameters, used.effective_parameters) == (full, kept)
    assert used.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 0.1 < used.parameter_share < 0.9
    for layer in (layers[0], layers[1]):
        mean, worst = overlap_by_loops(state[f"{layer.name}.weight"])
        assert rows[layer.name].overlap_mean == pytest.approx(mean, rel=1e-4)
        assert rows[layer.name].overlap_worst == pytest.approx(worst, rel=1e-4)


def weak_by_loops(layers: list[Known], state: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    means = {
        layer.name: [float(filter_.double().abs().mean()) for filter_ in state[f"{layer.name}.weight"]]
        for layer in layers
    }
    everything = sorted(value for values in means.values() for value in values)
    weakest = everything[int(0.2 * len(everything))]
    found = {}
    for layer in layers:
        ranked = sorted(means[layer.name])
        limit = ranked[len(ranked) * 3 // 10]
        filters = sum(value < weakest and value < limit for value in means[layer.name])
        kernels = state[f"{layer.name}.weight"].shape[1] // 10
        found[layer.name] = (filters, 0 if state[f"{layer.name}.weight"][0, 0].numel() == 1 else filters * kernels)
    return found


def overlap_by_loops(weight: Tensor) -> tuple[float, float]:
    filters = [filter_.flatten().double() for filter_ in weight]
    sums = []
    for one in filters:
        others = [other for other in filters if other is not one]
        sums.append(sum(abs(float(one @ other / one.norm() / other.norm())) for other in others) / len(filters))
    return sum(sums) / len(sums), max(sums)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "resnext26ts"])
def test_flops_are_those_that_pytorch_counts(name: str) -> None:
    model = timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *IMAGE))
    used = used_by(model, *IMAGE)
    assert used.flops == counter.get_total_flops()
    assert used.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (used.parameter_share, used.flop_share) == (1, 1)
