"""What the command line reads is never what it writes."""

import json
from pathlib import Path

import pytest
from command_line import ARCH, QUICK, call

APART = "would replace an input or another output: "


def test_a_run_replaces_neither_its_recipe_nor_its_exemplars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    recipe = checkpoint.with_name("o.json")
    recipe.write_text("epochs = 1")
    command = ["finetune", checkpoint, "--arch", ARCH, "--overwrite", "-o", checkpoint.with_name("o.safetensors")]
    assert call(monkeypatch, *command, *QUICK, "--recipe", recipe) == 1
    assert APART + "the recipe" in capsys.readouterr().err
    assert recipe.read_text() == "epochs = 1"
    best = checkpoint.with_name("o-best.safetensors")
    best.write_bytes(b"mine")
    assert call(monkeypatch, *command, "--data", f"exemplars:{best}", "--epochs", "1") == 1
    assert APART + "the exemplars of --data" in capsys.readouterr().err
    assert best.read_bytes() == b"mine"


def test_a_program_does_not_replace_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    path = checkpoint.rename(checkpoint.with_suffix(".pt2"))
    before = path.read_bytes()
    assert call(monkeypatch, "convert", path, "--arch", ARCH, "--full", "--overwrite") == 1
    assert APART + "the checkpoint" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_report_replaces_nothing_that_it_is_made_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "o.safetensors"
    output.write_bytes(b"mine")
    record = tmp_path / "o.json"
    figures = {"top1": 1.0, "top5": 2.0, "loss": 1.0, "drift": None, "agreement": None, "seconds": 1.0}
    told = {
        "surgeon": "0.1.0", "method": "none", "options": {}, "arch": "resnet18", "checkpoint": {}, "seed": 0,
        "targets": [], "stages": [{"name": "original", **figures}], "epochs": [], "edits": [], "output": str(output),
    }  # fmt: skip
    record.write_text(json.dumps(told))
    for page, what in ((record, "a record"), (output, "a checkpoint")):
        before = page.read_bytes()
        assert call(monkeypatch, "report", record, "-o", page, "--overwrite") == 1
        assert APART + what in capsys.readouterr().err
        assert page.read_bytes() == before
    assert call(monkeypatch, "report", record, "--result", output, "-o", output, "--overwrite") == 1
    assert call(monkeypatch, "report", record, "--arch", "net.py:build", "-o", "net.py", "--overwrite") == 1
