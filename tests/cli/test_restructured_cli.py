"""Other widths and cross-attention on the command line: what is told, written, read and gone on with."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call

import surgeon
from surgeon.checkpoint import build
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.structure import CrossAttentionConv2d, structure_of

CODE = """
from torch import nn

def chain(num_classes=10):
    parts, width = [], 3
    for channels in (6, 8, 10):
        parts += [nn.Conv2d(width, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU()]
        width = channels
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width, num_classes))
"""
METHOD = (
    "--method",
    "neural-rejuvenation",
    "--set",
    "in_place=false",
    "--set",
    "cross=attend",
    "--set",
    "resource=0.9",
)
DATA = ("--data", "digits", "--limit", "24", "--workers", "0", "--input-size", "3,16,16")


@pytest.fixture
def dying(tmp_path: Path) -> tuple[Path, str]:
    """A network some of whose channels are dead, and its architecture."""
    path, code = tmp_path / "chain.safetensors", tmp_path / "chain.py"
    code.write_text(CODE)
    arch = f"{code}:chain"
    model = build(parse_architecture(arch))
    for place in (1, 4, 7):
        with torch.no_grad():
            model.get_parameter(f"{place}.weight")[1::3] = 0.0
    surgeon.save(path, model)
    return path, arch


def test_from_a_dry_run_to_fine_tuning_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dying: tuple[Path, str]
) -> None:
    path, arch = dying
    given = ("--arch", arch, *DATA)
    assert call(monkeypatch, "apply", path, *METHOD, *given, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "reallocation: target params, rate " in shown
    assert "2 removed" in shown
    assert (
        call(monkeypatch, "apply", path, *METHOD, *given, "--epochs", "1", "-o", path.with_name("out.safetensors")) == 0
    )
    told = capsys.readouterr().err
    assert "The result is another network than its architecture's" in told
    output = path.with_name("out.safetensors")
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["resized"] is True
    model = surgeon.load(output, arch=arch)
    figures = record["figures"]
    assert sum(parameter.numel() for parameter in model.parameters()) == figures["reallocation"]["after"]
    assert [model[place].out_channels for place in (0, 3, 6)] == [figures[str(place)]["width"] for place in (0, 3, 6)]
    attending = structure_of(model).attention
    assert [name for name, module in model.named_modules() if isinstance(module, CrossAttentionConv2d)] == list(
        attending
    )
    assert attending
    # What was written computes what was measured, and is gone on with.
    again = path.with_name("again.safetensors")
    assert call(monkeypatch, "finetune", output, *given, "--epochs", "1", "-o", again) == 0
    assert structure_of(surgeon.load(again, arch=arch)) == structure_of(model)
    gone_on = json.loads(again.with_suffix(".json").read_text())
    assert gone_on["stages"][0]["loss"] == pytest.approx(record["stages"][-1]["loss"], rel=1e-5)
