"""Checkpoints that no exemplars can be made from: refused before any work, with advice that leads somewhere."""

import math
from pathlib import Path

import pytest
import timm
import torch
from command_line import call, small_network
from torch import nn

import surgeon
from surgeon.checkpoint import Architecture
from surgeon.data.exemplars import read_exemplars

SOFM = ["--method", "sofm", "--layers", "layer4", "--exemplars", "2", "--exemplar-steps", "1"]

SEQUENCES = """
from torch import nn

def make():
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3))
"""


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> str:
    """Return what is said of a checkpoint, of which nothing may have been made."""
    before = sorted(path.parent.iterdir())
    assert call(monkeypatch, "apply", path, *SOFM, *arguments) == 1
    assert sorted(path.parent.iterdir()) == before
    return capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--epochs", "0"]])
@pytest.mark.parametrize(
    ("classes", "channels", "words"),
    [(0, 3, "has no classifier"), (1, 3, "one output only"), (10, 10, "images of 10 channels")],
)
def test_networks_of_another_kind(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    classes: int,
    channels: int,
    words: str,
    arguments: list[str],
) -> None:
    path = tmp_path / "test_resnet.safetensors"
    described = Architecture("timm", "test_resnet", {"num_classes": classes, "in_chans": channels})
    surgeon.save(path, small_network(classes, channels), architecture=described)
    said = refusal(monkeypatch, capsys, path, *arguments)
    assert words in said
    assert "surgeon.apply" in said
    # Without a classifier the channels of layer4 are the output, and frozen: that is not what is wrong.
    assert "frozen" not in said


def test_a_network_of_sequences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, path = tmp_path / "net.py", tmp_path / "net.pth"
    code.write_text(SEQUENCES)
    torch.save(nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3)).state_dict(), path)
    said = refusal(monkeypatch, capsys, path, "--arch", f"{code}:make")
    assert "takes no images: its first layer, '0', is of the kind Embedding" in said
    assert "--input-size" not in said


def test_broken_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, path = small_network(), tmp_path / "test_resnet.safetensors"
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = math.nan
    surgeon.save(path, model)
    assert "NaN" in refusal(monkeypatch, capsys, path, "--input-size", "3,32,32")


def test_a_network_of_one_size_says_how_few_steps_it_makes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "test_vit.safetensors"
    options = {"num_classes": 3, "dynamic_img_size": False}
    described = Architecture("timm", "test_vit", options)
    surgeon.save(path, timm.create_model("test_vit", **options), architecture=described)
    steps = {(): 54, ("--exemplar-steps", "2"): 2}
    for given, made in steps.items():
        arguments = ["--method", "reinit", "--exemplars", "2", "--epochs", "1", "--workers", "0", "--overwrite"]
        assert call(monkeypatch, "apply", path, *arguments, *given) == 0
        told = "made in 54 steps at that size in place of 200" in capsys.readouterr().err
        assert told == (not given)
        assert read_exemplars(tmp_path / "test_vit-reinit.exemplars.safetensors").steps == made
