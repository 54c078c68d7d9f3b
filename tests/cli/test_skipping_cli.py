"""`--skip-bad-images` on the command line."""

import json
from pathlib import Path

import pytest
from bad_images import image_folder
from command_line import call
from two_stages import make_network

import surgeon

ARCH = f"{Path(__file__).resolve().parents[1]}/two_stages.py:Two"


def test_evaluate_names_a_bad_image_or_counts_its_stand_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    surgeon.save(tmp_path / "two.safetensors", make_network())
    bad = image_folder(tmp_path / "images") / "dog" / "3.png"
    bad.write_text("no image")
    images = ["--data", tmp_path / "images", "--input-size", "1,8,8", "--workers", "0"]
    command = ["evaluate", tmp_path / "two.safetensors", "--arch", ARCH, *images]
    assert call(monkeypatch, *command) == 1
    said = capsys.readouterr().err
    assert f"The image {bad} cannot be read" in said
    assert "--skip-bad-images" in said
    assert call(monkeypatch, *command, "--skip-bad-images", "--json") == 0
    out, said = capsys.readouterr()
    assert (json.loads(out)["images"], json.loads(out)["skipped"]) == (24, 1)
    assert " ".join(said.split()).count(f"The image {bad} cannot be read and is left out.") == 1
    assert call(monkeypatch, *command, "--skip-bad-images") == 0
    assert "(24 images, 1 of them stand-ins, " in capsys.readouterr().out
