"""The in-place methods from the command line: flags, partners, refusals."""

import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import call

import surgeon

WEIGHTS_ONLY = ("--epochs", "0", "--no-recalibrate")
"""Nothing that images would have to be synthesized for."""


def saved(path: Path, name: str, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=10)
    surgeon.save(path, model)
    return path


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    return saved(tmp_path / "test_resnet.safetensors", "test_resnet", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", "channel-regeneration", "--threshold", "2.5"),
        ("--method", "channel-regeneration", "--preserve", "--threshold", "2.5"),
        ("--method", "kernel-reactivation"),
        ("--method", "weight-evolution"),
        ("--method", "reinit", "--criterion", "ortho", "--ratio", "0.1"),
    ],
)
def test_every_method_writes_a_stock_checkpoint(
    monkeypatch: pytest.MonkeyPatch, resnet: Path, arguments: tuple[str, ...]
) -> None:
    assert call(monkeypatch, "apply", resnet, *arguments, *WEIGHTS_ONLY) == 0
    output = resnet.with_name(f"test_resnet-{arguments[1]}.safetensors")
    model = timm.create_model("test_resnet", num_classes=10, checkpoint_path=str(output))
    before = surgeon.load(resnet).state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    record = json.loads(output.with_suffix(".json").read_text())
    assert changed
    assert changed <= {edit["tensor"] for edit in record["edits"]}


@pytest.mark.parametrize(
    "method", ["channel-regeneration", "kernel-reactivation", "weight-evolution", "filter-grafting", "reinit"]
)
def test_a_dry_run_prints_the_plan_of_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path, method: str
) -> None:
    given = ["--set", "threshold=2"] if method == "channel-regeneration" else []
    if method == "filter-grafting":
        given = ["--partner", str(saved(resnet.with_name("other.safetensors"), "test_resnet", 1))]
    before = set(resnet.parent.iterdir())
    assert call(monkeypatch, "apply", resnet, "--method", method, *given, "--dry-run") == 0
    assert "conv1" in capsys.readouterr().out
    assert call(monkeypatch, "apply", resnet, "--method", method, *given, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["edits"]
    assert set(resnet.parent.iterdir()) == before


def test_a_flag_stands_for_an_option(monkeypatch: pytest.MonkeyPatch, resnet: Path) -> None:
    flags = ("--preserve", "--threshold", "2.5", "--inhibited-only", "2")
    settings = ("--set", "preserve=true", "--set", "threshold=2.5", "--set", "inhibited_only=2")
    for name, given in (("flags", flags), ("settings", settings)):
        output = resnet.with_name(f"{name}.safetensors")
        arguments = ("--method", "channel-regeneration", *given, *WEIGHTS_ONLY, "-o", output)
        assert call(monkeypatch, "apply", resnet, *arguments) == 0
    first, second = (surgeon.load(resnet.with_name(f"{name}.safetensors")) for name in ("flags", "settings"))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_partners(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path) -> None:
    other = saved(resnet.with_name("other.safetensors"), "test_resnet", 1)
    wrong = saved(resnet.with_name("wrong.safetensors"), "test_vit", 1)
    assert call(monkeypatch, "apply", resnet, "--method", "filter-grafting", "--partner", other, *WEIGHTS_ONLY) == 0
    assert call(monkeypatch, "apply", resnet, "--method", "filter-grafting") == 1
    assert "--partner" in capsys.readouterr().err
    assert call(monkeypatch, "apply", resnet, "--method", "reinit", "--partner", other) == 1
    assert "takes no partner" in capsys.readouterr().err
    given = ("--overwrite", "--partner", wrong)
    assert call(monkeypatch, "apply", resnet, "--method", "filter-grafting", *given) == 1
    assert "partner" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reinit", "--ratio", "1"), "ratio"),
        (("reinit", "--ratio", "0"), "ratio"),
        (("kernel-reactivation", "--set", "alpha=1.5"), "alpha"),
        (("reinit", "--criterion", "gama"), "criterion"),
        (("sofm", "--preserve"), "preserve"),
    ],
)
def test_bad_options_get_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resnet: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert call(monkeypatch, "apply", resnet, "--method", *arguments) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(resnet.parent.glob("*-*.safetensors"))


def test_a_network_without_batch_norm_is_told_what_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    vit = saved(tmp_path / "test_vit.safetensors", "test_vit", 0)
    assert call(monkeypatch, "apply", vit, "--method", "channel-regeneration", *WEIGHTS_ONLY) == 1
    assert "kernel-reactivation" in capsys.readouterr().err
    assert call(monkeypatch, "apply", vit, "--method", "reinit", "--criterion", "gamma", *WEIGHTS_ONLY) == 1
    assert "l2" in capsys.readouterr().err


def test_what_was_left_alone_is_said_and_an_empty_run_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ("--method", "channel-regeneration", "--preserve", "--threshold", "2", *WEIGHTS_ONLY)
    network = saved(tmp_path / "test_efficientnet.safetensors", "test_efficientnet", 0)
    assert call(monkeypatch, "apply", network, *given) in (0, 1)
    told = capsys.readouterr()
    assert "not positively homogeneous" in told.out + told.err
    vit = saved(tmp_path / "test_vit.safetensors", "test_vit", 0)
    assert call(monkeypatch, "apply", vit, "--method", "kernel-reactivation", *WEIGHTS_ONLY) == 1
    assert "edited nothing" in (error := capsys.readouterr().err)
    assert "kernel" in error.split("edited nothing")[1]


def test_without_images_it_says_that_nothing_was_learnt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path
) -> None:
    assert call(monkeypatch, "apply", resnet, "--method", "weight-evolution", *WEIGHTS_ONLY) == 0
    told = capsys.readouterr()
    assert "No fine-tuning was done" in told.err
    assert "weight-evolution on the whole network" in told.out
