"""The networks behind a record, and the pictures of them."""

import copy
import dataclasses
import json
import math
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from command_line import small_network
from hand_written import read_run, record, stage, written
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.checkpoint import Architecture, read, save
from surgeon.coupling.graph import CouplingGraph, Norm
from surgeon.coupling.trace import trace
from surgeon.edit.execute import execute
from surgeon.operate.plan import plan
from surgeon.operate.record import edit_rows
from surgeon.report.ablation import ablated, ablation_chart
from surgeon.report.activations import activations_chart
from surgeon.report.again import operated_again
from surgeon.report.build import make_report
from surgeon.report.images import Images
from surgeon.report.networks import Files, Networks, _is_result, open_networks
from surgeon.report.panel import Missing, Picture
from surgeon.report.records import EditRow, Run
from surgeon.report.weights import edited_groups, runs_of, scales_chart, weight_panels
from surgeon.tuning import evaluate, make_accelerator
from surgeon.tuning.freeze import untrained_names

ARCHITECTURE = Architecture("timm", "test_resnet", {"num_classes": 10, "in_chans": 3})


@pytest.fixture(scope="module")
def traced() -> tuple[nn.Module, CouplingGraph]:
    model = small_network().eval()
    return model, trace(model, torch.zeros(2, 3, 32, 32))


def edit(tensor: str, dim: int, positions: str) -> EditRow:
    return EditRow(tensor, dim, 1, positions, "", "changed", None)


def a_run(folder: Path, **change: object) -> Run:
    return read_run(written(folder, "run.json", record(**change)))


def images(labels: list[int], pixels: torch.Tensor, real: bool = True) -> Images:
    loader = DataLoader(TensorDataset(pixels, torch.tensor(labels)), batch_size=4)
    return Images("made up", (), real, loader, loader, make_accelerator(cpu=True))


def test_positions_are_read_as_they_are_written() -> None:
    assert runs_of("0-3,7,9-9") == [(0, 3), (7, 7), (9, 9)]
    assert runs_of("") == runs_of("a-b,-3,<1>,٣x," + "9" * 30) == []


def test_edited_groups_are_those_whose_own_places_changed(traced: tuple[nn.Module, CouplingGraph]) -> None:
    _, graph = traced
    group = next(
        group for group in graph.groups if group.writers and group.writers[0].weight == "layer1.0.conv1.weight"
    )
    assert edited_groups(graph, [edit("layer1.0.conv1.weight", 0, "0-1")]) == {group}
    # What reads the channels is not what they are, and places that the tensor does not have are nobody's.
    assert edited_groups(graph, [edit("layer1.0.conv2.weight", 1, "0-1")]) == frozenset()
    assert edited_groups(graph, [edit("layer1.0.conv1.weight", 0, "5000-9999999")]) == frozenset()


def test_the_numbers_of_the_weights(traced: tuple[nn.Module, CouplingGraph], tmp_path: Path) -> None:
    _, graph = traced
    model, changed = small_network().eval(), small_network().eval()
    with torch.no_grad():
        for module in (*model.modules(), *changed.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
        changed.get_parameter("layer1.0.bn1.weight")[:3] = torch.tensor([0.0, 0.005, -0.009])
    run = a_run(
        tmp_path, edits=[{"tensor": "layer1.0.bn1.weight", "dim": 0, "channels": 3, "positions": "0-2", "what": ""}]
    )
    panels = weight_panels(Networks({"original": model, "sofm": changed}, graph, "original", "sofm", ()), run)
    pictures = {panel.key: panel for panel in panels if isinstance(panel, Picture)}
    assert pictures.keys() == {"scales", "utilization", "overlap", "coupling"}
    scales = {(row[0], row[1]): row[3:5] for row in pictures["scales"].table.rows}
    assert scales["the whole network", "original"][0] == 0
    assert scales["the whole network", "sofm"] == (3, 0.0)
    assert scales["layer1", "sofm"][0] == scales["layer1.0.bn1", "sofm"][0] == 3
    assert scales["layer1.0.bn2", "sofm"][0] == 0
    used = {(row[0], row[1]): row for row in pictures["utilization"].table.rows}
    assert used["sofm", "layer1.0.conv1"][3:5] == (3, 3)
    assert used["original", "layer1.0.conv1"][3:5] == (0, 0)
    # RePr's equation 2, worked out in float64.
    weight = model.get_parameter("layer1.0.conv1.weight").detach().double().flatten(1)
    directions = weight / weight.norm(dim=1, keepdim=True)
    overlap = (directions @ directions.T - torch.eye(len(weight))).abs().sum(1) / len(weight)
    shown = {(row[0], row[1]): row[2:] for row in pictures["overlap"].table.rows}
    assert shown["original", "layer1.0.conv1"] == pytest.approx((overlap.mean().item(), overlap.max().item()), abs=1e-6)
    marked = [row[0] for row in pictures["coupling"].table.rows if row[3] == "yes"]
    assert marked == ["layer1.0.conv1"]
    assert pictures["coupling"].svg.count("✎") == pictures["coupling"].inline.count("✎") > 0


def test_a_header_says_whose_output_it_is(tmp_path: Path) -> None:
    described = record(figures={"share": math.nan})
    run = read_run(written(tmp_path, "run.json", described))
    core = {name: value for name, value in described.items() if name not in ("edits", "epochs", "skipped")}
    assert _is_result({"surgeon": json.dumps(core)}, run)
    assert not _is_result({"surgeon": json.dumps(core | {"seed": 99})}, run)
    assert not _is_result({}, run)


def test_a_header_of_very_many_values_is_not_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, header = a_run(tmp_path), {"surgeon": "[" + "[]," * 2**14 + "[]]"}
    monkeypatch.setattr("surgeon.report.networks.MOST_VALUES", 1000)
    tracemalloc.start()
    assert not _is_result(header, run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**18


def test_scales_that_are_no_numbers_are_counted_and_not_drawn(
    traced: tuple[nn.Module, CouplingGraph], tmp_path: Path
) -> None:
    model, graph = traced
    broken = small_network().eval()
    with torch.no_grad():
        broken.get_parameter("layer1.0.bn1.weight")[:3] = torch.tensor([0.5, float("nan"), float("inf")])
        broken.get_parameter("layer1.0.bn2.weight").fill_(float("nan"))
    channels = len(broken.get_parameter("layer1.0.bn2.weight"))
    panels = weight_panels(
        Networks({"original": model, "sofm": broken}, graph, "original", "sofm", ()), a_run(tmp_path)
    )
    chart = next(panel for panel in panels if isinstance(panel, Picture) and panel.key == "scales")
    rows = {(row[0], row[1]): row[3:] for row in chart.table.rows}
    assert rows["layer1.0.bn1", "sofm"][1:] == (0.5, 1.0, 1.0, 2)
    assert rows["layer1.0.bn2", "sofm"] == (0, None, None, None, channels)
    assert rows["layer1.0.bn1", "original"][-1] == 0
    assert f"Scales that are no finite numbers are not drawn: sofm {2 + channels}." in chart.caption


def test_stages_that_are_not_drawn_are_counted(
    traced: tuple[nn.Module, CouplingGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph = traced
    monkeypatch.setattr("surgeon.report.weights.MOST_STAGES", 2)
    chart = scales_chart(Networks({"original": model}, graph, "original", None, ()))
    assert isinstance(chart, Picture)
    stages = {str(row[0]) for row in chart.table.rows if "." not in str(row[0])} - {"the whole network"}
    assert len(stages) > 2
    assert f"Of {len(stages)} stages 2 are shown." in chart.caption


def test_a_control_of_another_seed_says_so(tmp_path: Path) -> None:
    save(tmp_path / "input.safetensors", small_network(), architecture=ARCHITECTURE)
    source = {"path": "input.safetensors", "sha256": read(tmp_path / "input.safetensors").sha256}
    run = a_run(tmp_path, arch="test_resnet", checkpoint=source)
    control = read_run(written(tmp_path, "control.json", record("finetune", seed=3, checkpoint=source)))
    opened = open_networks(run, control, Files())
    assert isinstance(opened, Networks)
    assert [missing.title for missing in opened.missing] == ["Weights of sofm", "Weights of control, seed 3"]


def test_a_run_is_made_again_with_what_it_froze(traced: tuple[nn.Module, CouplingGraph], tmp_path: Path) -> None:
    model, graph = traced
    freeze = ["layer1*"]
    made = plan(model, "reinit", seed=0, graph=graph, frozen=untrained_names(model, freeze))
    result = copy.deepcopy(model)
    execute(result, made)
    some = images([1, 2, 3, 4], torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    reached = evaluate(result, some.val, accelerator=some.accelerator)
    content = record(
        "reinit", options=dict(made.options), targets=list(made.targets), edits=list(edit_rows(made)),
        stages=[stage("operated", reached.top1, loss=reached.loss)], tuning={"freeze": freeze},
    )  # fmt: skip
    run = read_run(written(tmp_path, "a.json", content))
    models = operated_again(run, model, graph, some)
    assert isinstance(models, dict), models
    assert all(torch.equal(tensor, result.state_dict()[key]) for key, tensor in models["operated"].state_dict().items())
    # Other channels, as many of them.
    other = dataclasses.replace(run.edits[0], positions="0")
    assert other != run.edits[0]
    for wrong in ({"edits": (other, *run.edits[1:])}, {"tuning": {"freeze": "layer1"}}, {"tuning": {}}):
        assert isinstance(operated_again(dataclasses.replace(run, **wrong), model, graph, some), Missing)


class ByChannel(nn.Module):
    """Answers with the mean of each channel, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0.0)
        self.norm.weight.data = torch.tensor([2.0, -3.0, 1.0])
        self.num_classes = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.norm(pixels).abs().mean((2, 3))


def test_the_strongest_channels_are_ablated_first() -> None:
    # An image of class c is bright in channel c alone, so that each channel that is gone takes its class along.
    model = ByChannel().eval()
    labels = [0, 0, 0, 1, 1, 2]
    pixels = torch.full((6, 3, 2, 2), 1e-3)
    for place, label in enumerate(labels):
        pixels[place, label] = 1.0
    norm = Norm("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", 0.0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    reached = ablated(model, norm, [0, 1, 2], images(labels, pixels))
    # |γ| is largest in channel 1 (two of six images), then in channel 0 (three).
    assert reached == pytest.approx([100.0, 100 * 4 / 6, 100 / 6])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_activations_are_means_by_class(traced: tuple[nn.Module, CouplingGraph], tmp_path: Path) -> None:
    model, graph = traced
    pixels, labels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [1, 1, 4, 1, 4, 4]
    chart = activations_chart({"original": model}, graph, a_run(tmp_path), images(labels, pixels), "layer1")
    assert isinstance(chart, Picture)
    found: list[torch.Tensor] = []
    handle = model.get_submodule("layer1").register_forward_hook(lambda module, given, output: found.append(output))
    with torch.no_grad():
        model(pixels)
    handle.remove()
    for row, label in zip(chart.table.rows, (1, 4), strict=True):
        means = found[0].double()[[place for place, one in enumerate(labels) if one == label]].mean((0, 2, 3))
        assert row[:3] == ("original", str(label), 3)
        expected = (means.mean().item(), means.std(correction=0).item(), means.max().item())
        assert row[3:] == pytest.approx(expected, abs=1e-5)
    assert "data:image/png;base64," in chart.inline


def test_classes_may_be_called_anything(traced: tuple[nn.Module, CouplingGraph], tmp_path: Path) -> None:
    model, graph = traced
    some = images([0, 1], torch.rand(2, 3, 32, 32))
    called = dataclasses.replace(some, classes=("<script>$\x1b", "b") + ("c",) * 8)
    chart = activations_chart({"original": model}, graph, a_run(tmp_path), called, "layer1")
    assert isinstance(chart, Picture)
    assert "<script" not in chart.svg
    assert [row[1] for row in chart.table.rows] == [r"<script>$\x1b", "b"]
    ElementTree.fromstring(chart.svg)


def test_channels_that_are_not_shown_are_counted(
    traced: tuple[nn.Module, CouplingGraph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph = traced
    monkeypatch.setattr("surgeon.report.activations.MOST_CHANNELS", 2)
    some = images([0, 1], torch.rand(2, 3, 32, 32))
    chart = activations_chart({"original": model}, graph, a_run(tmp_path), some, "layer1.0.conv1")
    assert isinstance(chart, Picture)
    channels = len(model.get_parameter("layer1.0.conv1.weight"))
    assert "a row of pixels for each of 2 channels" in chart.caption
    assert chart.caption.endswith(f" Of {channels} channels 2 are shown.")


def test_layers_that_cannot_be_shown_say_why(traced: tuple[nn.Module, CouplingGraph], tmp_path: Path) -> None:
    model, graph = traced
    some = images([0, 1], torch.zeros(2, 3, 32, 32))
    for chart in (activations_chart, ablation_chart):
        missing = chart({"original": model}, graph, a_run(tmp_path), some, "nowhere")
        assert isinstance(missing, Missing)
        assert "nowhere" in missing.reason
    flat = activations_chart({"original": model}, graph, a_run(tmp_path), some, "fc")
    assert isinstance(flat, Missing)
    assert "no feature map" in flat.reason
    unreal = ablation_chart(
        {"original": model}, graph, a_run(tmp_path), images([0], torch.zeros(1, 3, 32, 32), False), None
    )
    assert isinstance(unreal, Missing)
    assert "nobody's judgement" in unreal.reason


def test_only_the_files_of_the_run_are_shown(tmp_path: Path) -> None:
    save(tmp_path / "input.safetensors", small_network(), architecture=ARCHITECTURE)
    sha256 = read(tmp_path / "input.safetensors").sha256
    source = {"path": "/nowhere/input.safetensors", "sha256": sha256}
    run = a_run(tmp_path, arch="test_resnet", checkpoint=source)
    # The output's header is that of no run.
    save(tmp_path / "output.safetensors", small_network(seed=1), architecture=ARCHITECTURE)
    opened = open_networks(run, None, Files(input_size=(3, 32, 32)))
    assert isinstance(opened, Networks)
    assert (list(opened.models), opened.original, opened.result) == (["original"], "original", None)
    assert "header" in opened.missing[0].reason
    # A run from random weights began with no file's.
    begun = open_networks(a_run(tmp_path, recipe={"init": "random"}, checkpoint=source), None, Files())
    assert isinstance(begun, tuple)
    assert begun[0].reason == "The run began with random weights, which no file keeps."
    other = open_networks(run, None, Files(checkpoint=tmp_path / "output.safetensors"))
    assert isinstance(other, tuple)
    assert "SHA-256" in other[0].reason


def test_a_method_of_any_name_hides_no_other_network(tmp_path: Path) -> None:
    save(tmp_path / "input.safetensors", small_network(), architecture=ARCHITECTURE)
    source = {"path": "input.safetensors", "sha256": read(tmp_path / "input.safetensors").sha256}
    run = a_run(tmp_path, method="original", arch="test_resnet", checkpoint=source)
    header = {name: value for name, value in run.raw.items() if name not in ("edits", "epochs", "skipped")}
    result = small_network(seed=1)
    save(tmp_path / "output.safetensors", result, architecture=ARCHITECTURE, metadata={"surgeon": json.dumps(header)})
    opened = open_networks(run, None, Files())
    assert isinstance(opened, Networks)
    assert (list(opened.models), opened.original, opened.result) == (["original", "result"], "original", "result")
    assert torch.equal(opened.models["result"].get_parameter("fc.weight"), result.get_parameter("fc.weight"))
    assert not opened.missing


def test_code_that_a_record_names_is_not_run(tmp_path: Path) -> None:
    code, mark = tmp_path / "code.py", tmp_path / "mark"
    code.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\ndef network(**options): ...\n")
    save(tmp_path / "input.safetensors", small_network())
    source = {"path": "input.safetensors", "sha256": read(tmp_path / "input.safetensors").sha256}
    recipe = {"arch": f"{code}:network", "data": "hfds/somebody/code"}
    run = a_run(tmp_path, arch=f"{code}:network", checkpoint=source, recipe=recipe)
    report = make_report([(run,)], Files())
    assert any("--arch" in missing.remedy for missing in report.missing)
    assert not mark.exists()
