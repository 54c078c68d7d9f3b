"""Plans in files from the command line: written by a dry run, replayed, refused."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from command_line import call

import surgeon
from surgeon.edit.plan import Plan, Set
from surgeon.edit.plan_file import encode
from surgeon.operate.stored_plan import HEADER_KEY

ROOT = Path(__file__).resolve().parents[2]
ARCH = ("--arch", f"{ROOT}/models/cifar_resnet.py:resnet20")
DATA = ("--data", "digits", "--limit", "60", "--workers", "0")


def saved(path: Path, name: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10)
    surgeon.save(path, model)
    return path


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    return saved(tmp_path / "test_resnet.safetensors", "test_resnet")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, resnet: Path) -> Path:
    """A plan for it, of a method that needs no images."""
    path = resnet.with_name("plan.safetensors")
    arguments = ("--method", "reinit", "--ratio", "0.2", "--every", "3", "--seed", "5")
    assert call(monkeypatch, "apply", resnet, *arguments, "--dry-run", "--save-plan", path) == 0
    return path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def same(first: Path, second: Path) -> bool:
    return all(torch.equal(value, tensors(second)[key]) for key, value in tensors(first).items())


def test_a_replayed_plan_does_what_the_run_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "digits.safetensors"
    checkpoint.write_bytes((ROOT / "models/resnet20-digits.safetensors").read_bytes())
    path = tmp_path / "plan.safetensors"
    method = ("--method", "sofm", "--layers", "layer3.2.conv1", "--set", "merge=preserve")
    shared = (*ARCH, *DATA, "--epochs", "1")
    assert call(monkeypatch, "apply", checkpoint, *method, *shared, "--dry-run", "--save-plan", path) == 0
    assert {item.name for item in tmp_path.iterdir()} == {"digits.safetensors", "plan.safetensors"}
    direct, replayed = tmp_path / "direct.safetensors", tmp_path / "replayed.safetensors"
    assert call(monkeypatch, "apply", checkpoint, *method, *shared, "-o", direct) == 0
    capsys.readouterr()
    assert call(monkeypatch, "apply", checkpoint, "--plan", path, *shared, "-o", replayed, "--json") == 0
    assert same(direct, replayed)
    assert not same(checkpoint, replayed)
    record = json.loads(capsys.readouterr().out)
    expected = json.loads(direct.with_suffix(".json").read_text())
    for name in ("method", "options", "targets", "edits", "figures", "skipped", "seed", "tuning"):
        assert record[name] == expected[name], name
    assert [stage["name"] for stage in record["stages"]] == [stage["name"] for stage in expected["stages"]]
    assert [stage["top1"] for stage in record["stages"]] == [stage["top1"] for stage in expected["stages"]]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"The plan in {path} is replayed; its SHA-256 is {digest}." in record["notes"]


def test_a_plan_needs_no_method_and_is_carried_out_once(
    monkeypatch: pytest.MonkeyPatch, resnet: Path, plan: Path
) -> None:
    direct = resnet.with_name("direct.safetensors")
    arguments = ("--method", "reinit", "--ratio", "0.2", "--seed", "5", "-o", direct)
    alone = ("--epochs", "0", "--no-recalibrate")
    assert call(monkeypatch, "apply", resnet, *arguments, *alone) == 0
    # The seed is the plan's: it decided on the new values already.
    assert call(monkeypatch, "apply", resnet, "--plan", plan, "--method", "reinit", *alone) == 0
    output = resnet.with_name("test_resnet-reinit.safetensors")
    assert same(direct, output)
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["options"]["every"] is None
    assert "The plan was made with every=3, and is carried out once." in record["notes"]


def test_a_dry_run_shows_a_stored_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path, plan: Path
) -> None:
    capsys.readouterr()
    assert call(monkeypatch, "apply", resnet, "--plan", plan, "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["method"] == "reinit"
    assert shown["edits"]
    assert call(monkeypatch, "apply", resnet, "--plan", plan, "--dry-run") == 0
    assert "re-initialized" in capsys.readouterr().out
    copied = plan.with_name("copied.safetensors")
    assert call(monkeypatch, "apply", resnet, "--plan", plan, "--dry-run", "--save-plan", copied) == 0
    assert copied.read_bytes() == plan.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--every", "2"), "every"),
        (("--ratio", "0.5"), "ratio"),
        (("--set", "criterion=l1"), "criterion"),
        (("--layers", "layer4"), "layers"),
        (("--partner", "other.safetensors"), "partner"),
        (("--method", "sofm"), "--method"),
        (("--dry-run", "--save-plan", "plan.pt"), "suffix .pt"),
    ],
)
def test_what_the_plan_decides_cannot_be_given(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resnet: Path,
    plan: Path,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    before = set(resnet.parent.iterdir())
    assert call(monkeypatch, "apply", resnet, "--plan", plan, *arguments) == 1
    assert words in capsys.readouterr().err
    assert set(resnet.parent.iterdir()) == before


def test_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path) -> None:
    assert call(monkeypatch, "apply", resnet) == 2
    assert "--method" in capsys.readouterr().err
    assert call(monkeypatch, "apply", resnet, "--method", "reinit", "--save-plan", "plan.safetensors") == 2
    assert "--dry-run" in capsys.readouterr().err


def test_a_plan_for_another_network_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path, plan: Path
) -> None:
    other = saved(resnet.with_name("test_efficientnet.safetensors"), "test_efficientnet")
    before = set(resnet.parent.iterdir())
    assert call(monkeypatch, "apply", other, "--plan", plan) == 1
    error = capsys.readouterr().err
    assert "which the network does not have" in error
    assert "anew" in error
    assert set(resnet.parent.iterdir()) == before


def test_no_output_replaces_an_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path, plan: Path
) -> None:
    contents = resnet.read_bytes(), plan.read_bytes()
    dry = ("--dry-run", "--overwrite", "--save-plan")
    assert call(monkeypatch, "apply", resnet, "--method", "reinit", *dry, resnet) == 1
    assert call(monkeypatch, "apply", resnet, "--plan", plan, *dry, plan) == 1
    assert call(monkeypatch, "apply", resnet, "--plan", plan, "--overwrite", "-o", plan) == 1
    assert call(monkeypatch, "apply", resnet, "--method", "reinit", "--dry-run", "--save-plan", plan) == 1
    assert "exists" in capsys.readouterr().err
    assert (resnet.read_bytes(), plan.read_bytes()) == contents


@pytest.mark.parametrize("method", ["../../evil", "nonsense"])
def test_a_plan_of_an_unknown_method_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], resnet: Path, method: str
) -> None:
    edit = Set("fc.bias", torch.tensor([0]), torch.tensor([1.0]), "raised")
    named, text = encode(Plan(method, {}, (), (edit,)))
    path = resnet.with_name("plan.safetensors")
    safetensors.torch.save_file(named, path, {HEADER_KEY: text})
    assert call(monkeypatch, "apply", resnet, "--plan", path) == 1
    assert "no method" in capsys.readouterr().err
    assert set(resnet.parent.iterdir()) == {resnet, path}
