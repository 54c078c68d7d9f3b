"""The options of fine-tuning on the command line: their defaults, their refusals, and that they reach the run."""

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import call
from safetensors.torch import load_file

import surgeon
from surgeon.cli.apply import command
from surgeon.tuning import TuningConfig

SMALL = ["--data", "digits", "--limit", "40", "--workers", "0", "--input-size", "3,32,32", "--batch-size", "20"]
REGENERATE = ["--method", "channel-regeneration", "--epochs", "1", *SMALL]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A timm checkpoint whose file name says what it is, with BatchNorm scales that differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=10)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    path = tmp_path / "test_resnet.safetensors"
    surgeon.save(path, model)
    return path


def test_the_defaults_are_those_of_the_configuration() -> None:
    given = command.make_context("apply", ["checkpoint"]).params
    fields = [field.name for field in dataclasses.fields(TuningConfig)]
    assert {name: given[name] for name in fields} == vars(TuningConfig())


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        (["--freeze", "layer9"], "'layer9' of what to freeze matches no module", "layer1"),
        (["--freeze", "*"], "Every parameter of the network is frozen", "Freeze fewer layers"),
        (["--decay-milestones", "5,x"], "--decay-milestones is '5,x'", "numbers with commas"),
        (["--aa", "nonsense"], "no augmentation policy 'nonsense'", "rand-m9-mstd0.5"),
        (["--aa", "rand-x9"], "no augmentation policy 'rand-x9'", "rand-m9-mstd0.5"),
        (["--reprob", "1.5"], "random erasing is 1.5", "in [0, 1]"),
        (["--mixup", "-1"], "mixup is -1.0", "at least 0"),
        (["--model-ema", "--model-ema-decay", "1"], "model_ema_decay is 1.0", "in [0, 1)"),
        (["--orthogonal-loss", "-1"], "orthogonal_loss is -1.0", "at least 0"),
        (["--layer-decay", "2"], "layer_decay is 2.0", "in (0, 1]"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
    arguments: list[str],
    problem: str,
    remedy: str,
) -> None:
    assert call(monkeypatch, "apply", tiny, *REGENERATE, *arguments) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert problem in first
    assert remedy in second
    assert list(tiny.parent.iterdir()) == [tiny]


def test_frozen_stages_keep_every_bit(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    more = ["--layers", "layer4", "--freeze", "layer1", "--freeze", "*bn1", "--layer-decay", "0.5"]
    assert call(monkeypatch, "apply", tiny, *REGENERATE, *more) == 0
    result = tiny.with_name("test_resnet-channel-regeneration.safetensors")
    before, after = load_file(tiny), load_file(result)
    kept = {key for key in before if torch.equal(before[key], after[key])}
    frozen = {key for key in before if key.startswith("layer1.") or ("bn1." in key and not key.startswith("layer4"))}
    assert frozen <= kept
    assert "layer2.0.bn2.running_mean" not in kept
    assert "fc.weight" not in kept
    tuning = json.loads(result.with_suffix(".json").read_text())["tuning"]
    assert (tuning["freeze"], tuning["layer_decay"]) == (["layer1", "*bn1"], 0.5)


@pytest.mark.parametrize("arguments", [("apply", "--method", "channel-regeneration", "--every", "1"), ("finetune",)])
def test_the_orthogonal_loss_goes_with_every_run_and_replays(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, arguments: tuple[str, ...]
) -> None:
    command, *method = arguments
    results = {name: tiny.with_name(f"{name}.safetensors") for name in ("without", "with", "again")}
    for name, more in (("without", ()), ("with", ("--orthogonal-loss", "0.01"))):
        given = [tiny, *method, *SMALL, "--epochs", "2", *more, "-o", results[name]]
        assert call(monkeypatch, command, *given) == 0
    recipe = results["with"].with_suffix(".json")
    assert call(monkeypatch, command, tiny, "--recipe", recipe, "-o", results["again"]) == 0
    record, plain = json.loads(recipe.read_text()), json.loads(results["without"].with_suffix(".json").read_text())
    assert (record["tuning"]["orthogonal_loss"], plain["tuning"]["orthogonal_loss"]) == (0.01, 0.0)
    assert record["epochs"][0]["train_loss"] > plain["epochs"][0]["train_loss"] + 1
    one, other = load_file(results["with"]), load_file(results["again"])
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_images_on_the_device_train_and_replay_and_are_refused_where_they_cannot_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    there = ["--device-data", "yes"]
    assert call(monkeypatch, "apply", tiny, *REGENERATE, *there, "--aa", "rand-m5") == 1
    assert "cannot lie on the device" in capsys.readouterr().err
    results = [tiny.with_name(f"{name}.safetensors") for name in ("one", "two")]
    assert call(monkeypatch, "apply", tiny, *REGENERATE, *there, "-o", results[0]) == 0
    assert "stay on the device (cpu)" in capsys.readouterr().err
    assert call(monkeypatch, "apply", tiny, "--recipe", results[0].with_suffix(".json"), "-o", results[1]) == 0
    first, second = map(load_file, results)
    assert all(torch.equal(first[key], second[key]) for key in first)
