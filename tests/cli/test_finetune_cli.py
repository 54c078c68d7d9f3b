"""`surgeon finetune`: the same options, outputs and record as `surgeon apply`, without an operation."""

import json
from pathlib import Path

import pytest
from command_line import ARCH, QUICK, call
from safetensors import safe_open

import surgeon


def test_it_writes_a_checkpoint_and_a_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    before = checkpoint.read_bytes()
    assert call(monkeypatch, "finetune", checkpoint, "--arch", ARCH, *QUICK, "--lr", "0.02", "--json") == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    output, beside = checkpoint.with_name("digits-finetuned.safetensors"), checkpoint.with_name("digits-finetuned.json")
    assert json.loads(beside.read_text()) == record
    assert record["method"] == "finetune"
    assert [stage["name"] for stage in record["stages"]] == ["original", "finetuned"]
    assert record["stages"][0]["top1"] > 95
    assert record["tuning"]["lr"] == 0.02
    assert record["edits"] == []
    assert "finetuned" in shown.err
    with safe_open(output, "pt") as file:
        assert json.loads(file.metadata()["surgeon"])["method"] == "finetune"
    surgeon.load(output, ARCH)
    assert output.read_bytes() != before == checkpoint.read_bytes()
    left = {path.name for path in checkpoint.parent.iterdir()} - {"digits-finetuned-best.safetensors"}
    assert left == {checkpoint.name, output.name, beside.name}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no images to fine-tune on"),
        ([*QUICK, "--epochs", "0"], "No epoch of fine-tuning"),
        ([*QUICK, "--input-size", "1,32,32"], "takes images of 3 channels"),
        ([*QUICK, "--opt", "nonsense"], "nonsense"),
        ([*QUICK, "-o", "out.pth"], "suffix .pth"),
    ],
)
def test_refusals_say_what_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    arguments: list[str],
    words: str,
) -> None:
    assert call(monkeypatch, "finetune", checkpoint, "--arch", ARCH, *arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_options_of_an_operation_are_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    assert call(monkeypatch, "finetune", checkpoint, *QUICK, "--layers", "layer3") == 2
    assert "--layers" in capsys.readouterr().err
