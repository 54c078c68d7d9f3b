"""Options that would do nothing are refused where they are given, and passed over where a recipe has them."""

import json
from pathlib import Path

import pytest
from command_line import ARCH, QUICK, call

APPLY = ["apply", "missing.pt", "--method", "sofm"]
WITHOUT, WITH = "does nothing without --data.", "does nothing with --data: it is for images that are made"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*APPLY, "--limit", "7"], f"--limit {WITHOUT}"),
        ([*APPLY, "--hold-out", "0.1"], f"--hold-out {WITHOUT}"),
        ([*APPLY, "--data-root", "x"], f"--data-root {WITHOUT}"),
        ([*APPLY, "--download"], f"--download {WITHOUT}"),
        ([*APPLY, "--skip-bad-images"], f"--skip-bad-images {WITHOUT}"),
        ([*APPLY, "--data", "digits", "--skip-bad-images"], "--skip-bad-images does nothing with --data digits: these"),
        ([*APPLY, "--data", "digits", "--exemplars", "32"], f"--exemplars {WITH}"),
        ([*APPLY, "--data", "digits", "--exemplar-steps", "9"], f"--exemplar-steps {WITH}"),
        ([*APPLY, "--data", "exemplars:x", "--exemplar-size", "9"], f"--exemplar-size {WITH}"),
        ([*APPLY, "--data", "folder", "--save-exemplars", "x"], f"--save-exemplars {WITH}"),
        ([*APPLY, "--data", "random", "--hold-out", "0.2"], "--hold-out does nothing with --data random: all of"),
        ([*APPLY, "--dry-run", "--save-exemplars", "x"], "--save-exemplars does nothing with --dry-run"),
        ([*APPLY, "--dry-run", "--tensorboard", "x"], "--tensorboard does nothing with --dry-run"),
        (
            ["finetune", "x", "--data", "exemplars:x", "--hold-out", "0"],
            "--hold-out does nothing with --data exemplars:x",
        ),
        (
            ["finetune", "x", "--data", "digits", "--data-root", "x"],
            "--data-root does nothing with --data digits: it is",
        ),
        (
            ["finetune", "x", "--data", "hfds/x", "--download"],
            "--download does nothing with --data hfds/x: it is for torch",
        ),
        (
            ["finetune", "x", "--data", "digits", "--model-ema-decay", "0.9"],
            "--model-ema-decay does nothing without",
        ),
        (
            ["finetune", "x", "--data", "digits", "--teacher-weight", "0.9"],
            "--teacher-weight does nothing without",
        ),
        ([*APPLY, "--data", "digits", "--teacher-temperature", "2"], "--teacher-temperature does nothing without"),
        ([*APPLY, "--data", "digits", "--teacher-arch", "x"], "--teacher-arch does nothing without --teacher CKPT"),
        (
            ["finetune", "x", "--data", "digits", "--teacher", "original", "--teacher-arch", "resnet18"],
            "--teacher-arch does nothing without --teacher CKPT",
        ),
        (
            ["finetune", "--init", "random", "--arch", "resnet18", "--data", "digits", "--weights", "model"],
            "--weights does nothing without a CHECKPOINT",
        ),
        ([*APPLY, "--data", "digits", "--decay-milestones", "1"], "--decay-milestones does nothing with --sched cos"),
        (
            [*APPLY, "--data", "digits", "--sched", "tanh", "--decay-rate", "1"],
            "--decay-rate does nothing with --sched t",
        ),
        (["evaluate", "x", "--data", "folder", "--download"], "--download does nothing with --data folder: it is for"),
        (
            ["evaluate", "x", "--data", "folder", "--data-root", "x"],
            "--data-root does nothing with --data folder: it is",
        ),
    ],
)
def test_options_that_do_nothing_are_refused_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert call(monkeypatch, *arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"Error: The option {words}")
    assert shown.endswith("\nLeave it out.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [*APPLY, "--exemplars", "5", "--exemplar-steps", "5", "--exemplar-size", "9", "--save-exemplars", "x"],
        [*APPLY, "--data", "torch/cifar10", "--data-root", "x", "--download", "--hold-out", "0.1", "--limit", "5"],
        [*APPLY, "--data", "hfds/x", "--data-root", "x"],
        [*APPLY, "--data", "wds/x", "--data-root", "x"],
        [*APPLY, "--data", "random", "--limit", "5"],
        ["evaluate", "missing.pt", "--data", "folder", "--hold-out", "0.2", "--limit", "5"],
    ],
)
def test_options_that_do_something_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert call(monkeypatch, *arguments) == 1
    assert "missing.pt does not exist" in capsys.readouterr().err


def test_a_recipe_may_hold_options_of_other_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"exemplars": 5, "limit": 7, "hold-out": 0.2, "method": "sofm"}))
    for data in ([], ["--data", "digits"]):
        assert call(monkeypatch, "apply", "missing.pt", "--recipe", recipe, *data) == 1
        assert "missing.pt does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("every", "said"), [("2", True), ("1", False)])
def test_an_operation_that_is_not_repeated_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    every: str,
    said: bool,
) -> None:
    arguments = ["--method", "reinit", "--layers", "layer3", "--every", every, "--arch", ARCH, *QUICK, "--epochs", "2"]
    assert call(monkeypatch, "apply", checkpoint, *arguments) == 0
    record = json.loads(checkpoint.with_name("digits-reinit.json").read_text())
    assert any(edit.get("epoch") == 1 for edit in record["edits"]) != said
    words = "The operation is not repeated: it would be every 2 epochs, and there are 2."
    assert (words in capsys.readouterr().err) == said
    assert (words in record["notes"]) == said


def test_no_images_are_written_where_none_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    pictures = checkpoint.with_name("pictures")
    arguments = [
        "--method",
        "reinit",
        "--arch",
        ARCH,
        "--epochs",
        "0",
        "--no-recalibrate",
        "--save-exemplars",
        pictures,
    ]
    assert call(monkeypatch, "apply", checkpoint, *arguments) == 0
    assert f"no exemplars are made and none are written to {pictures}." in capsys.readouterr().err
    assert not pictures.exists()
