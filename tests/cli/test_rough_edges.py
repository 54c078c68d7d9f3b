"""What a newcomer gets wrong or brings along: refused before any work in one sentence, or said in a note."""

import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import call, small_network
from PIL import Image
from safetensors import safe_open

import surgeon

ROOT = Path(__file__).resolve().parents[2]
ARCH = f"{ROOT}/models/cifar_resnet.py:resnet20"
DIGITS = ROOT / "models/resnet20-digits.safetensors"
SMALL = ["--input-size", "3,32,32", "--limit", "30", "--workers", "0"]
SOFM = ["--method", "sofm", "--layers", "layer4", "--epochs", "1"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "test_resnet.pth"
    torch.save(small_network().state_dict(), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures of each of ten classes for training, and two of each in a test split."""
    for split, count in (("train", 4), ("test", 2)):
        for label in range(10):
            folder = tmp_path / "pictures" / split / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                level = 20 * label + number
                Image.new("RGB", (32, 32), (level, level, level)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("command", ["evaluate", "apply", "dry-run", "verify", "inspect"])
@pytest.mark.parametrize(
    ("size", "problem", "remedy"),
    [
        ("1,32,32", "takes images of 3 channels, and 1,32,32 has 1", "starts with 3"),
        ("3,32", "input size 3,32 is not that of an image", "channels, height and width"),
    ],
)
def test_an_input_size_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
    command: str,
    size: str,
    problem: str,
    remedy: str,
) -> None:
    more = {
        "evaluate": ["evaluate", "--data", "missing-folder"],
        "apply": ["apply", "--data", "missing-folder", *SOFM],
        "dry-run": ["apply", "--data", "missing-folder", *SOFM, "--dry-run"],
    }.get(command, [command])
    assert call(monkeypatch, *more, tiny, "--input-size", size) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second = shown.err.strip().splitlines()
    assert problem in first
    assert remedy in second


@pytest.mark.parametrize("command", ["evaluate", "verify", "inspect"])
def test_an_input_size_that_the_layers_cannot_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    path = tmp_path / "test_vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    data = ["--data", "missing-folder"] if command == "evaluate" else []
    assert call(monkeypatch, command, path, "--input-size", "3,50,50", *data) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "cannot take images of 3,50,50" in first
    assert "(50)" in first
    assert "--input-size" in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "soft"], "no method 'soft'"),
        (["--method", "sofm", "--set", "ration=1"], "no option 'ration'"),
        (["--method", "sofm", "--layers", "layer9"], "'layer9' matches no module"),
        ([*SOFM, "--opt", "nonsense"], "nonsense"),
        ([*SOFM, "--batch-size", "1"], "--batch-size 1 gives it one image"),
        ([*SOFM, "--teacher", "no-teacher.pth"], "no-teacher.pth does not exist"),
    ],
)
def test_what_can_be_refused_without_the_data_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
    arguments: list[str],
    words: str,
) -> None:
    for data in ("missing-folder", "digits"):
        assert call(monkeypatch, "apply", tiny, *arguments, "--data", data, *SMALL) == 1
        shown = capsys.readouterr().err
        assert words in shown
        assert "missing-folder" not in shown
        assert "Limited" not in shown


def test_a_share_that_leaves_no_training_images_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, pictures: Path
) -> None:
    size = ["--input-size", "3,32,32"]
    data = ["--data", pictures / "train", "--hold-out", "0.99"]
    assert call(monkeypatch, "apply", tiny, *SOFM, *data, *size) == 1
    assert "leaves no training image for 10 of 10 classes" in capsys.readouterr().err


def test_one_image_trains_no_batch_norm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert call(monkeypatch, "apply", tiny, *SOFM, "--data", "digits", *SMALL, "--limit", "1") == 1
    assert "leaves one training image" in capsys.readouterr().err


def test_a_last_batch_of_one_image_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    # At 32 x 32 this network's last stage sees 1 x 1 of a single image, which BatchNorm refuses to train on.
    arguments = [*SOFM, "--data", "digits", *SMALL, "--limit", "31", "--batch-size", "10", "--json"]
    assert call(monkeypatch, "apply", tiny, *arguments) == 0
    shown = capsys.readouterr()
    assert "One image is left out of every epoch" in shown.err
    assert any("One image is left out" in note for note in json.loads(shown.out)["notes"])


def test_only_runs_that_train_are_told_which_scores_choose_the_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, pictures: Path
) -> None:
    data = ["--data", pictures, "--input-size", "3,32,32", "--workers", "0"]
    assert call(monkeypatch, "evaluate", tiny, *data) == 0
    shown = capsys.readouterr()
    assert "best epoch" not in shown.err
    assert "20 images" in shown.out
    assert call(monkeypatch, "apply", tiny, *SOFM, *data) == 0
    assert "best epoch" in capsys.readouterr().err


def test_the_weights_that_are_taken_are_named_and_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "test_resnet.pth"
    plain, averaged = small_network(seed=1), small_network(seed=2)
    torch.save({"model": plain.state_dict(), "model_ema": averaged.state_dict()}, path)
    data = ["--data", "digits", *SMALL]
    losses = []
    for weights in ([], ["--weights", "model_ema"], ["--weights", "model"]):
        assert call(monkeypatch, "evaluate", path, *data, "--json", *weights) == 0
        shown = capsys.readouterr()
        assert ("those under model_ema are taken" in shown.err) == (not weights)
        losses.append(json.loads(shown.out)["loss"])
    assert losses[0] == losses[1] != losses[2]
    result = tmp_path / "out.safetensors"
    arguments = ["--method", "sofm", "--layers", "layer4", "--epochs", "0", "--no-recalibrate", "-o", result, "--json"]
    assert call(monkeypatch, "apply", path, *arguments, *data, "--weights", "model") == 0
    assert torch.equal(surgeon.load(result).state_dict()["conv1.0.weight"], plain.state_dict()["conv1.0.weight"])
    capsys.readouterr()
    assert call(monkeypatch, "apply", path, *arguments, *data, "--overwrite") == 0
    assert any("model_ema are taken" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert call(monkeypatch, "inspect", path, "--weights", "ema") == 1
    assert "Choose one of model, model_ema." in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_announced_and_the_result_loads_into_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "test_resnet.pth"
    torch.save(small_network().to(dtype).state_dict(), path)
    assert call(monkeypatch, "apply", path, *SOFM, "--data", "digits", *SMALL, "--json") == 0
    shown = capsys.readouterr()
    name = str(dtype).removeprefix("torch.")
    sentence = "they are computed with in float32, which all figures are of, and a result is written in the file's own"
    assert f"stores weights in {name} (" in shown.err
    assert sentence in shown.err
    assert any(sentence in note for note in json.loads(shown.out)["notes"])
    output = tmp_path / "test_resnet-sofm.safetensors"
    with safe_open(output, "pt") as file:
        assert file.get_tensor("conv1.0.weight").dtype == dtype
    state = surgeon.load(output).state_dict()
    for stock in (small_network(), small_network().to(dtype)):
        timm.models.load_checkpoint(stock, str(output))
        assert all(torch.equal(value, state[name].to(value.dtype)) for name, value in stock.state_dict().items())


def test_gray_networks_are_operated_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "test_resnet.pth"
    torch.save(small_network(channels=1).state_dict(), path)
    data = ["--data", "digits", "--input-size", "1,32,32", "--limit", "30", "--workers", "0"]
    assert call(monkeypatch, "apply", path, *SOFM, *data) == 0
    with safe_open(tmp_path / "test_resnet-sofm.safetensors", "pt") as file:
        assert json.loads(file.metadata()["architecture_args"]) == {"in_chans": 1, "num_classes": 10}
    assert call(monkeypatch, "verify", tmp_path / "test_resnet-sofm.safetensors") == 0
    capsys.readouterr()


def test_other_than_gray_and_colour_can_be_inspected_and_verified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "test_resnet.pth"
    torch.save(small_network(channels=6).state_dict(), path)
    assert call(monkeypatch, "verify", path) == 0
    assert call(monkeypatch, "inspect", path) == 0
    capsys.readouterr()
    assert call(monkeypatch, "evaluate", path, "--data", "digits") == 1
    assert "1 or 3 channels" in capsys.readouterr().err


def test_float32_and_a_single_set_of_weights_need_no_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--method", "sofm", "--layers", "layer3.2.conv1", "--data", "digits", "--workers", "0", "--dry-run"]
    assert call(monkeypatch, "apply", DIGITS, "--arch", ARCH, *arguments) == 0
    (line,) = capsys.readouterr().err.splitlines()
    output = DIGITS.with_name("resnet20-digits-sofm")
    assert (
        line
        == f"This was a dry run. Without --dry-run the result is {output}.safetensors and its record {output}.json."
    )
