"""`--init random`: training from scratch on the command line, any method's schedule, and born-again generations."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call
from safetensors.torch import load_file

NETWORK = """
from torch import nn


def small(num_classes=100, in_chans=3):
    parts = nn.Conv2d(in_chans, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)
    net = nn.Sequential(*parts, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
    net.num_classes = num_classes
    return net


def ten(num_classes=10):
    return small(num_classes)
"""
SMALL = ["--data", "digits", "--limit", "40", "--workers", "0", "--input-size", "3,16,16", "--epochs", "1"]
SCRATCH = ["--init", "random", "--arch", "network.py:small", *SMALL]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(NETWORK)
    return tmp_path


def equal(one: str, other: str) -> bool:
    first, second = load_file(one), load_file(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_an_architecture_alone_is_trained_and_its_record_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "finetune", *SCRATCH, "--seed", "3") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-2:] == ["small-finetuned.safetensors", "small-finetuned.json"]
    assert "starts from random weights (--init random, seed 3)" in shown.err
    record = json.loads(Path("small-finetuned.json").read_text())
    assert (record["checkpoint"], record["recipe"]["init"], record["seed"]) == ({}, "random", 3)
    assert record["stages"][1]["agreement"] is None
    again = ["--recipe", "small-finetuned.json", "--arch", record["recipe"]["arch"], "-o", "again.safetensors"]
    assert call(monkeypatch, "finetune", *again) == 0
    assert equal("small-finetuned.safetensors", "again.safetensors")


def test_a_checkpoint_says_which_network_it_is_and_teaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "finetune", *SCRATCH, "-o", "first.safetensors") == 0
    untouched = Path("first.safetensors").read_bytes()
    again = ["first.safetensors", *SCRATCH, "--seed", "1"]
    assert call(monkeypatch, "finetune", *again, "--teacher", "original", "-o", "taught.safetensors") == 0
    assert call(monkeypatch, "finetune", *again, "--teacher", "first.safetensors", "-o", "same.safetensors") == 0
    assert equal("taught.safetensors", "same.safetensors")
    assert Path("first.safetensors").read_bytes() == untouched
    assert "agreement and drift are measured against first.safetensors" in capsys.readouterr().err
    noise = [*SCRATCH, "--arch", "network.py:ten", "--data", "random", "--teacher", "first.safetensors"]
    assert call(monkeypatch, "finetune", *noise, "-o", "noise.safetensors") == 0
    assert "agreement and drift are measured against first.safetensors" in capsys.readouterr().err
    assert json.loads(Path("noise.json").read_text())["stages"][1]["agreement"] is not None


def test_a_method_is_applied_from_scratch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    method = ["--method", "reinit", "--criterion", "l1", "--ratio", "0.5"]
    assert call(monkeypatch, "apply", *SCRATCH, *method, "--dry-run") == 0
    assert "the result is small-reinit.safetensors" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"network.py"}
    assert call(monkeypatch, "apply", *SCRATCH, *method, "--every", "1", "--epochs", "2") == 0
    record = json.loads(Path("small-reinit.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["original", "operated", "recalibrated", "finetuned"]
    assert any(edit.get("epoch") == 1 for edit in record["edits"])


def test_generations_print_one_record_and_keep_every_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert call(monkeypatch, "finetune", *SCRATCH, "-o", "first.safetensors") == 0
    capsys.readouterr()
    command = ["finetune", "first.safetensors", *SCRATCH, "--teacher", "original", "--generations", "2", "--json"]
    assert call(monkeypatch, *command, "--tensorboard", "events") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads(Path("first-finetuned.json").read_text())
    assert {path.name for path in folder.glob("first-*generation*") if "best" not in path.name} == {
        "first-finetuned-generation1.safetensors",
        "first-finetuned-generation1.json",
    }
    assert {path.name for path in (folder / "events").iterdir()} == {
        "first-finetuned-generation1",
        "first-finetuned",
    }
    Path("first-finetuned.safetensors").rename("earlier.safetensors")
    Path("first-finetuned.json").unlink()
    Path("first-finetuned-best.safetensors").unlink(missing_ok=True)
    assert call(monkeypatch, *command) == 0
    assert "Generation 1 is finished, in first-finetuned-generation1.safetensors" in capsys.readouterr().err
    assert equal("first-finetuned.safetensors", "earlier.safetensors")
    assert call(monkeypatch, *command) == 1
    assert "first-finetuned.safetensors exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["finetune", *SMALL], 2, "Missing argument 'CHECKPOINT' (or '--init random' with '--arch')"),
        (["apply", "--method", "reinit", *SMALL], 2, "Missing argument 'CHECKPOINT'"),
        (["finetune", "--init", "random", *SMALL], 1, "Pass --arch with a timm name"),
        (["apply", "--init", "random", "--arch", "x.py:y", "--method", "reinit"], 1, "Name some with --data"),
        (["finetune", *SCRATCH, "--teacher", "original"], 1, "the CHECKPOINT before the options"),
        (["finetune", *SCRATCH, "--generations", "2"], 1, "Give --init random and --teacher original"),
        (["finetune", *SCRATCH, "--data", "random"], 1, "--teacher CKPT"),
    ],
)
def test_refusals_come_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    assert call(monkeypatch, *arguments) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert "synthesized from the checkpoint" not in shown.err
    assert {path.name for path in folder.iterdir()} == {"network.py"}
