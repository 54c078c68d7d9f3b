"""The command line as a user meets it: results, refusals, exit codes, and what is left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from command_line import ARCH, DIGITS, QUICK, call
from safetensors import safe_open

import surgeon


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A timm checkpoint whose file name says what it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet", num_classes=10)
    path = tmp_path / "test_efficientnet.safetensors"
    surgeon.save(path, model)
    return path


def test_apply_writes_a_checkpoint_and_a_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    before = checkpoint.read_bytes()
    code = call(
        monkeypatch, "apply", checkpoint, "--method", "sofm", "--layers", "layer3", "--arch", ARCH, *QUICK,
        "--set", "merge=preserve", "--json",
    )  # fmt: skip
    assert code == 0
    shown = json.loads(capsys.readouterr().out)
    output, record = checkpoint.with_name("digits-sofm.safetensors"), checkpoint.with_name("digits-sofm.json")
    assert json.loads(record.read_text()) == shown
    assert [stage["name"] for stage in shown["stages"]] == ["original", "operated", "recalibrated", "finetuned"]
    assert shown["stages"][0]["top1"] > 95
    assert shown["options"]["merge"] == "preserve"
    assert len(shown["checkpoint"]["sha256"]) == 64
    with safe_open(output, "pt") as file:
        assert json.loads(file.metadata()["surgeon"])["method"] == "sofm"
    surgeon.load(output, ARCH)
    assert checkpoint.read_bytes() == before
    left = {path.name for path in checkpoint.parent.iterdir()} - {"digits-sofm-best.safetensors"}
    assert left == {"digits.safetensors", "digits-sofm.safetensors", "digits-sofm.json"}


def test_the_result_loads_into_stock_timm(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    assert (
        call(monkeypatch, "apply", tiny, "--method", "sofm", "--layers", "blocks.2", *QUICK, "--input-size", "3,32,32")
        == 0
    )
    output = tiny.with_name("test_efficientnet-sofm.safetensors")
    stock = timm.create_model("test_efficientnet", num_classes=10, checkpoint_path=str(output))
    ours = surgeon.load(output)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in stock.state_dict().items())


def test_dry_run_prints_every_tensor_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    arguments = ["--method", "sofm", "--layers", "layer3.2.conv1", "--arch", ARCH, *QUICK, "--dry-run"]
    assert call(monkeypatch, "apply", checkpoint, *arguments) == 0
    shown = capsys.readouterr().out
    for tensor in ("layer3.2.conv1.weight", "layer3.2.bn1.running_var", "layer3.2.conv2.weight"):
        assert tensor in shown
    assert "averaged" in shown
    assert "re-initialized" in shown
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_dry_run_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    arguments = ["--method", "sofm", "--layers", "layer3.2.conv1", "--arch", ARCH, *QUICK, "--dry-run", "--json"]
    assert call(monkeypatch, "apply", checkpoint, *arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["targets"] == ["layer3.2.conv1"]
    assert {row["what"] for row in shown["edits"]} == {"averaged", "re-initialized"}


def test_a_recipe_holds_any_option_and_the_command_line_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'method = "sofm"\nlayers = ["layer3.2.conv1"]\ndata = "digits"\nlimit = 60\nworkers = 0\n'
        "epochs = 7\nno-recalibrate = true\n[set]\nratio = 0.25\n"
    )
    code = call(
        monkeypatch,
        "apply",
        checkpoint,
        "--recipe",
        recipe,
        "--arch",
        ARCH,
        "--epochs",
        "0",
        "-o",
        tmp_path / "o.safetensors",
        "--json",
    )
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["options"]["ratio"] == 0.25
    assert [stage["name"] for stage in record["stages"]] == ["original", "operated"]
    assert (tmp_path / "o.json").exists()
    recipe.write_text("epoch = 3\n")
    assert call(monkeypatch, "apply", checkpoint, "--recipe", recipe) == 1
    assert "unknown option 'epoch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "soft", *QUICK], "no method 'soft'"),
        (["--method", "sofm", "--layers", "layer9", *QUICK], "nearest modules are: layer"),
        (["--method", "sofm", "--layers", "linear", *QUICK], "network's output"),
        (["--method", "sofm", "--set", "ratio", *QUICK], "name=value"),
        (["--method", "sofm", "--set", "ration=1", *QUICK], "Did you mean 'ratio'"),
        (["--method", "sofm", "--data", "missing-folder"], "missing-folder"),
        (["--method", "sofm", "--input-size", "a,b", *QUICK], "--input-size"),
        (["--method", "sofm", *QUICK, "--opt", "nonsense"], "nonsense"),
        (["--method", "sofm", *QUICK, "--sched", "nonsense"], "nonsense"),
        (["--method", "sofm", *QUICK, "-o", "out.pth"], "suffix .pth"),
    ],
)
def test_refusals_say_what_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    arguments: list[str],
    words: str,
) -> None:
    assert call(monkeypatch, "apply", checkpoint, "--arch", ARCH, *arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Error: " in shown.err
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_existing_outputs_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    existing = checkpoint.with_name("digits-sofm.json")
    existing.write_text("mine")
    assert call(monkeypatch, "apply", checkpoint, "--method", "sofm", "--arch", ARCH, *QUICK) == 1
    assert "digits-sofm.json" in capsys.readouterr().err
    assert existing.read_text() == "mine"
    code = call(
        monkeypatch, "apply", checkpoint, "--method", "sofm", "--arch", ARCH, *QUICK, "-o", checkpoint, "--overwrite"
    )
    assert code == 1
    assert "would replace an input" in capsys.readouterr().err


def test_the_wrong_number_of_classes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "resnet10t.safetensors"
    surgeon.save(path, timm.create_model("resnet10t"))
    assert call(monkeypatch, "apply", path, "--method", "sofm", *QUICK) == 1
    shown = capsys.readouterr().err
    assert "1000" in shown
    assert "10" in shown


def test_usage_errors_exit_with_two(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "apply") == 2
    assert call(monkeypatch, "nonsense") == 2
    assert "Usage:" in capsys.readouterr().err


def test_verify_inspect_evaluate_and_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert call(monkeypatch, "verify", tiny, "--json") == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["holds"]
    assert proof["rounds"][0]["difference"] < 1e-9 < proof["rounds"][0]["counter_difference"]
    assert call(monkeypatch, "inspect", tiny, "--json") == 0
    assert json.loads(capsys.readouterr().out)["groups"]
    assert call(monkeypatch, "inspect", "--arch", "test_vit", "--layers", "blocks.0.mlp.fc1") == 0
    assert "blocks.0.mlp.fc1.weight" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate", DIGITS, "--arch", ARCH, "--data", "digits", "--workers", "0", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["images"] == 360
    assert scores["top1"] > 95
    assert call(monkeypatch, "methods", "sofm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["options"][0]["name"] == "ratio"
    assert call(monkeypatch, "methods") == 0


def test_help_starts_without_torch() -> None:
    code = (
        "import sys\nfrom surgeon.cli.main import cli\ncli(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "apply" in done.stdout
