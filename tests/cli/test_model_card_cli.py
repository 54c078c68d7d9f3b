"""`--model-card`: a card beside the result and its record, and never in the place of anything else."""

import json
from pathlib import Path

import pytest
from command_line import ARCH, QUICK, call

from surgeon.report import card as module
from surgeon.report.card import card

RUN = ["--method", "channel-regeneration", "--arch", ARCH, *QUICK[:4], "--epochs", "0", "--workers", "0"]


def test_a_card_is_written_from_the_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    readme = checkpoint.with_name("README.md")
    assert call(monkeypatch, "apply", checkpoint, *RUN, "--model-card", readme) == 0
    result, record = (checkpoint.with_name(f"digits-channel-regeneration{end}") for end in (".safetensors", ".json"))
    assert capsys.readouterr().out.splitlines()[-3:] == [str(result), str(record), str(readme)]
    content = json.loads(record.read_text())
    assert readme.read_text() == card(content)
    assert "model-card" not in content["recipe"]
    left = {path.name for path in checkpoint.parent.iterdir()}
    assert left == {checkpoint.name, result.name, record.name, readme.name}

    before = readme.read_bytes()
    other = checkpoint.with_name("other.safetensors")
    assert call(monkeypatch, "apply", checkpoint, *RUN, "--model-card", readme, "-o", other) == 1
    assert "README.md exists" in capsys.readouterr().err
    assert readme.read_bytes() == before
    assert not other.exists()


@pytest.mark.parametrize("name", ["digits.safetensors", "r.safetensors", "r.json", "r-best.safetensors", "../x/r.json"])
def test_a_card_replaces_no_other_file_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, name: str
) -> None:
    before = checkpoint.read_bytes()
    path = checkpoint.parent / name.replace("x/", f"{checkpoint.parent.name}/")
    result = checkpoint.with_name("r.safetensors")
    assert call(monkeypatch, "apply", checkpoint, *RUN, "-o", result, "--overwrite", "--model-card", path) == 1
    assert "would replace an input or another output" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
    assert not result.exists()


def test_a_dry_run_writes_no_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    readme = checkpoint.with_name("README.md")
    assert call(monkeypatch, "apply", checkpoint, *RUN, "--dry-run", "--model-card", readme) == 1
    assert "--model-card does nothing with --dry-run" in capsys.readouterr().err
    assert not readme.exists()


def test_of_several_generations_the_last_has_the_card(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    readme = checkpoint.with_name("README.md")
    readme.write_text("An earlier one.")
    code = call(
        monkeypatch, "finetune", checkpoint, "--arch", ARCH, *QUICK, "--init", "random", "--teacher", "original",
        "--generations", "2", "--model-card", readme, "--overwrite",
    )  # fmt: skip
    assert code == 0
    assert "# digits-finetuned\n" in readme.read_text()
    assert module.CONTROL_ITSELF in readme.read_text()
    assert "value: " in readme.read_text()
