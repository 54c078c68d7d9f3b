"""`surgeon apply --method repr|dsd`: what is shown and written, and what is refused before any work."""

import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import ARCH, QUICK, call

from surgeon.checkpoint import save
from surgeon.checkpoint.safetensors_file import read_safetensors

SHORT = ("--s1", "1", "--s2", "1", "--n", "1", "--epochs", "3")


def test_the_phases_are_shown_and_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    given = ("--method", "repr", "--layers", "layer3", "--arch", ARCH, *QUICK, *SHORT, "--max-per-layer", "0.4")
    assert call(monkeypatch, "apply", checkpoint, *given) == 0
    shown = capsys.readouterr().err
    assert "From epoch 2 on the sub-network is trained: round 1, " in shown
    assert [line.split()[-2:] for line in shown.splitlines() if line.startswith("    epoch")] == [
        ["full", "network"], ["images/s", "sub-network"], ["full", "network"],
    ]  # fmt: skip
    output = checkpoint.with_name("digits-repr.safetensors")
    record = json.loads(output.with_suffix(".json").read_text())
    assert [epoch["phase"] for epoch in record["epochs"]] == ["full network", "sub-network", "full network"]
    assert {record["recipe"][name] for name in ("s1", "s2", "n")} == {"1"}
    assert record["recipe"]["max-per-layer"] == "0.4"
    assert record["options"]["max_per_layer"] == 0.4
    renewed = record["epochs"][2]["operation"]["figures"]
    assert all(figures["cosine_to_kept"] < 1e-5 > figures["cosine_to_past"] for figures in renewed.values())
    tensors = read_safetensors(output)[0]
    assert all(tensor.any() for key, tensor in tensors.items() if key.endswith("weight"))
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        key: tensor.shape for key, tensor in read_safetensors(checkpoint)[0].items()
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--epochs", "2", "--s1", "1", "--s2", "1"), "repr needs 3 epochs"),
        ((), "repr needs 31 epochs of fine-tuning or more, s1 + s2 + 1, and there are 1."),
        (("--epochs", "0"), "there are 0."),
        ((*SHORT, "--ratio", "0.95"), "no layer may lose more than max_per_layer, 0.9"),
        ((*SHORT, "--ratio", "1"), "The option ratio of repr is 1.0"),
        (("--s1", "0"), "The option s1 of repr is 0"),
        (("--n", "many"), "The option n of repr is 'many'"),
        ((*SHORT, "--no-recalibrate"), "--no-recalibrate does nothing with repr"),
        ((*SHORT, "--every", "1"), "has no option 'every'"),
        ((*SHORT, "--dry-run", "--save-plan", "plan.safetensors"), "one step of its schedule"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    arguments: tuple[str, ...],
    why: str,
) -> None:
    assert call(monkeypatch, "apply", checkpoint, "--method", "repr", "--arch", ARCH, *QUICK, *arguments) == 1
    assert why in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_dry_run_shows_what_would_be_dropped_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "test_resnet.safetensors"

    save(path, timm.create_model("test_resnet", num_classes=10))
    for method, word in (("repr", "dropped"), ("dsd", "some weights pruned")):
        assert call(monkeypatch, "apply", path, "--method", method, "--dry-run", "--json") == 0
        shown = capsys.readouterr()
        assert f"Carried out, this would be refused: {method} needs 31 epochs" in " ".join(shown.err.split())
        plan = json.loads(shown.out)
        assert plan["edits"]
        assert {edit["what"] for edit in plan["edits"]} == {word}
