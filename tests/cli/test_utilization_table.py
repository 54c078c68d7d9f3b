"""The table of `surgeon inspect --utilization` shows every number whole."""

import io
import json
import signal
import sys
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

import surgeon
from surgeon.cli.main import main
from surgeon.cli.utilization import print_utilization, utilization_json
from surgeon.measure.utilization import LayerUtilization, Utilization

CONV = LayerUtilization(
    "stages.0.blocks.0.conv", 1024, 12, 3, 7, 70, 0.1234, 0.5678, 2_000_000, 1_500_000, 10**9, 5 * 10**8
)
HEAD = LayerUtilization("head", 10, None, None, None, None, None, None, 500, 250, 1000, 1000)
USED = Utilization((CONV, HEAD), 2_000_600, 1_500_350, 0.75, 1_000_001_000, 500_001_000, 0.5)


def printed(width: int, layers: tuple[str, ...] | None = None) -> list[list[str]]:
    """Return the words of each line."""
    text = io.StringIO()
    print_utilization(USED, Console(file=text, width=width), layers)
    return [line.split() for line in text.getvalue().splitlines()]


def test_numbers_are_whole_on_any_screen() -> None:
    conv = "stages.0.blocks.0.conv 1,024 12 3 7 70 0.123 0.568 2,000.0 75.0 1,000.0 50.0".split()
    head = "head 10 – – – – – – 0.5 50.0 0.0 100.0".split()
    total = "whole network 1,034 12 3 7 70 0.568 2,000.6 75.0 1,000.0 50.0".split()
    for width in (40, 80, 200):
        lines = printed(width)
        assert conv in lines
        assert head in lines
        assert total in lines
        assert lines.index(conv) < lines.index(head) < lines.index(total)


def test_chosen_layers_with_the_whole_networks_sums() -> None:
    lines = printed(120, ("head",))
    assert [line[0] for line in lines if line and line[0] in ("head", CONV.name, "whole")] == ["head", "whole"]


def test_json_has_the_same_numbers() -> None:
    read = json.loads(utilization_json(USED))
    assert [row["name"] for row in read["layers"]] == [CONV.name, "head"]
    assert read["layers"][0]["overlap_worst"] == 0.5678
    assert read["layers"][1]["dead"] is None
    assert read["effective_parameters"] == 1_500_350
    only = json.loads(utilization_json(USED, ("head",)))
    assert [row["name"] for row in only["layers"]] == ["head"]
    assert only["parameters"] == read["parameters"]


def inspected(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["surgeon", "inspect", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        main()
    signal.signal(signal.SIGTERM, handler)
    return int(stopped.value.code or 0)


def test_inspect_shows_a_checkpoint_of_a_known_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = timm.create_model("test_efficientnet", num_classes=10)
    with torch.no_grad():
        model.bn2.weight[:5] = 0
    path = tmp_path / "test_efficientnet.safetensors"
    surgeon.save(path, model)
    assert inspected(monkeypatch, path, "--utilization", "--json") == 0
    read = json.loads(capsys.readouterr().out)
    head = next(row for row in read["layers"] if row["name"] == "conv_head")
    assert (head["dead"], head["inhibited"]) == (5, 5)
    width, inputs = model.conv_head.weight.shape[:2]
    # Each dead channel takes its filter, its scale and shift, and its column of the classifier of ten classes.
    assert head["parameters"] - head["effective_parameters"] == 5 * (inputs + 2)
    assert read["parameters"] - read["effective_parameters"] == 5 * (inputs + 2 + 10)
    assert head["filters"] == width
    assert inspected(monkeypatch, path, "--utilization", "--layers", "conv_head") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines if line and line[0] in ("conv_head", "conv_stem")] == [
        ["conv_head", str(width), "5"]
    ]


def test_there_is_no_picture_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspected(monkeypatch, "--arch", "test_efficientnet", "--utilization", "--svg") == 1
    assert "no picture" in capsys.readouterr().err
