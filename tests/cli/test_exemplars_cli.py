"""Surgery without data: exemplars are made where something needs images, kept, and used again."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import call, small_network
from safetensors.torch import load_file
from torch import nn

import surgeon
from surgeon.checkpoint import Architecture
from surgeon.data.exemplars import read_exemplars, save_exemplars
from surgeon.operate import make_exemplars
from surgeon.operate.states import StateFolder
from surgeon.tuning import epoch

SIZE = ["--input-size", "3,32,32"]
FEW = ["--exemplars", "6", "--exemplar-steps", "3"]
SOFM = ["--method", "sofm", "--layers", "layer4"]
QUICK = [*SOFM, *SIZE, "--epochs", "2"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkpoint whose name says what it is, with scales that differ as in a trained network."""
    model = small_network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "test_resnet.safetensors"
    surgeon.save(path, model)
    return path


def test_the_whole_job_without_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    pictures = tiny.with_name("pictures")
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "--save-exemplars", pictures, "--json") == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "There is no --data" in shown.err.splitlines()[0]
    assert "6 exemplars of 32x32 pixels are synthesized from the checkpoint in about" in shown.err
    assert "are not accuracy" in shown.err
    assert "top-1" not in shown.err
    assert [stage["name"] for stage in record["stages"]] == ["original", "operated", "recalibrated", "finetuned"]
    for stage in record["stages"]:
        assert stage["top1"] is stage["top5"] is stage["loss"] is None
        assert 0 <= stage["agreement"] <= 1
    assert record["stages"][0]["drift"] == 0 < record["stages"][1]["drift"]
    assert record["epochs"][-1]["metrics"] == {name: record["stages"][-1][name] for name in ("agreement", "drift")}
    assert {name: record["tuning"][name] for name in ("teacher_weight", "lr", "epochs")} == {
        "teacher_weight": 1, "lr": 0.003, "epochs": 2,
    }  # fmt: skip
    assert any("not accuracy" in note for note in record["notes"])
    file = tiny.with_name("test_resnet-sofm.exemplars.safetensors")
    exemplars = read_exemplars(file)
    assert record["data"] == {"name": "exemplars", "kind": "exemplars", "file": str(file), **exemplars.described()}
    assert exemplars.checkpoint_sha256 == record["checkpoint"]["sha256"]
    assert exemplars.labels.tolist() == [0, 1, 3, 5, 6, 8]
    assert f"takes {exemplars.recognized:.0%} of the exemplars" in shown.err
    assert len(list(pictures.glob("*.png"))) == 6
    names = {path.name for path in tiny.parent.iterdir()}
    assert names == {
        "test_resnet.safetensors", "test_resnet-sofm.safetensors", "test_resnet-sofm.json", file.name, "pictures",
    }  # fmt: skip


def test_gradients_of_exemplars_are_accumulated(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    updates: list[int] = []
    update = epoch._update
    monkeypatch.setattr(epoch, "_update", lambda run: (update(run), updates.append(run.updates)))
    arguments = [*QUICK, *FEW, "--batch-size", "2", "--accumulate", "2"]
    assert call(monkeypatch, "apply", tiny, *arguments) == 0
    # Three batches an epoch.
    assert updates == [1, 2, 3, 4]


def test_exemplars_are_used_again_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path
) -> None:
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "-o", tmp_path / "a.safetensors") == 0
    assert "top-1" not in capsys.readouterr().out
    spec = f"exemplars:{tmp_path}/a.exemplars.safetensors"
    assert call(monkeypatch, "apply", tiny, *QUICK, "--data", spec, "-o", tmp_path / "b.safetensors") == 0
    assert "another checkpoint" not in capsys.readouterr().err
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not (tmp_path / "b.exemplars.safetensors").exists()
    assert call(monkeypatch, "evaluate", tiny, *SIZE, "--data", spec) == 1
    assert "not accuracy" in capsys.readouterr().err


def test_smaller_exemplars_are_used_at_their_own_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path
) -> None:
    large = [*SOFM, "--input-size", "3,64,64", "--epochs", "1"]
    small = ["--exemplar-size", "32", *FEW]
    sizes = set()
    forward = timm.models.ResNet.forward

    def watched(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        sizes.add((len(images) > 2, *images.shape[2:]))
        return forward(self, images)

    monkeypatch.setattr(timm.models.ResNet, "forward", watched)
    assert call(monkeypatch, "apply", tiny, *large, *small, "-o", tmp_path / "a.safetensors") == 0
    said = capsys.readouterr().err
    assert "6 exemplars of 32x32 pixels" in said
    assert "at their own size, 32x32; the network's is 64x64" in said
    # Traced and tried out at the network's size, and otherwise at their own.
    assert {size[1:] for size in sizes if size[0]} == {(32, 32)}
    spec = f"exemplars:{tmp_path}/a.exemplars.safetensors"
    assert call(monkeypatch, "apply", tiny, *large, "--data", spec, "-o", tmp_path / "b.safetensors") == 0
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_exemplars_of_a_size_that_the_network_does_not_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path
) -> None:
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "-o", tmp_path / "a.safetensors") == 0
    options = {"num_classes": 10, "dynamic_img_size": False}
    path = tmp_path / "test_vit.safetensors"
    surgeon.save(path, timm.create_model("test_vit", **options), architecture=Architecture("timm", "test_vit", options))
    capsys.readouterr()
    spec = f"exemplars:{tmp_path}/a.exemplars.safetensors"
    assert call(monkeypatch, "apply", path, "--method", "reinit", "--data", spec) == 1
    said = capsys.readouterr().err
    assert "cannot take images of 3,32,32" in said
    assert "Give exemplars that were made in a size that it takes" in said


def test_memory_that_runs_out_while_exemplars_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    def hungry(*arguments: object, **keywords: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(make_exemplars, "synthesize", hungry)
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW) == 1
    said = capsys.readouterr().err
    assert "The memory ran out" in said
    assert "--batch-size" in said
    assert "--exemplar-size" in said
    assert "--input-size" not in said


def test_fine_tuning_goes_on_from_the_result_with_real_images(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "-o", tmp_path / "a.safetensors") == 0
    tuning = ["finetune", tmp_path / "a.safetensors", "--arch", "test_resnet", *SIZE, "--epochs", "1", "--workers", "0"]
    assert call(monkeypatch, *tuning, "--data", "digits", "--limit", "30", "-o", tmp_path / "real.safetensors") == 0
    record = json.loads((tmp_path / "real.json").read_text())
    assert record["data"] == {"name": "digits", "kind": "images"}
    assert record["tuning"]["teacher_weight"] == 0.5
    assert record["stages"][-1]["top1"] is not None


@pytest.mark.parametrize(
    "command", [["finetune", *SIZE, "--epochs", "1"], ["apply", *QUICK]], ids=lambda given: given[0]
)
def test_the_result_goes_on_with_its_exemplars_only_where_the_checkpoint_teaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path, command: list[str]
) -> None:
    edited = tmp_path / "a.safetensors"
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "--epochs", "0", "-o", edited) == 0
    file, output = tmp_path / "a.exemplars.safetensors", tmp_path / "b.safetensors"
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    again = [*command, edited, "--arch", "test_resnet", "--data", f"exemplars:{file}", "-o", output]
    for teacher, words in (
        ([], "own teacher and its own measure"),
        (["--teacher", "original"], "own teacher and its own measure"),
        (["--teacher", edited], f"another checkpoint than the teacher {edited}"),
    ):
        capsys.readouterr()
        assert call(monkeypatch, *again, *teacher) == 1
        shown = capsys.readouterr().err
        assert words in shown
        assert f"--teacher CKPT, whose SHA-256 begins with {digest[:12]}." in shown
        assert not output.exists()
    assert call(monkeypatch, *again, "--teacher", tiny) == 0
    said = f"agreement and drift are measured against that one, which is the teacher {tiny}."
    assert said in capsys.readouterr().err
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["tuning"]["teacher_weight"] == 1
    assert said in " ".join(record["notes"])
    # By hand: the first stage is the edited network, held against the one that it was.
    images = read_exemplars(file).images / 255
    config = surgeon.data.image_config(small_network())
    normalized = (images - torch.tensor(config.mean)[:, None, None]) / torch.tensor(config.std)[:, None, None]
    with torch.no_grad():
        kept, now = (surgeon.load(path, "test_resnet").eval()(normalized) for path in (tiny, edited))
    first = record["stages"][0]
    assert first["drift"] == pytest.approx(((now - kept).norm() / kept.norm()).item(), rel=1e-4)
    assert first["drift"] > 0.01
    assert first["agreement"] == (now.argmax(1) == kept.argmax(1)).double().mean().item()
    assert record["epochs"][-1]["metrics"]["drift"] == record["stages"][-1]["drift"]


def test_exemplars_of_an_earlier_result_do_not_stay_beside_one_that_was_made_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    file = tiny.with_name("test_resnet-sofm.exemplars.safetensors")
    command = ["apply", tiny, *QUICK, "--epochs", "0", "--overwrite"]
    assert call(monkeypatch, *command, *FEW) == 0
    before = file.read_bytes()
    # Those that the result itself was made with stay, by whatever name.
    spec = f"exemplars:{file.parent}/../{file.parent.name}/{file.name}"
    assert call(monkeypatch, *command, "--data", spec) == 0
    assert file.read_bytes() == before
    capsys.readouterr()
    assert call(monkeypatch, *command, "--data", "random", "--limit", "6") == 0
    assert f"{file}, are removed" in capsys.readouterr().err
    assert not file.exists()
    # Without permission to replace anything, nothing is touched.
    for path in (tiny.with_name("test_resnet-sofm.safetensors"), tiny.with_name("test_resnet-sofm.json")):
        path.unlink()
    file.write_bytes(before)
    assert call(monkeypatch, *command[:-1], "--data", "random", "--limit", "6") == 0
    assert file.read_bytes() == before


def test_a_plan_may_be_measured_on_exemplars_of_another_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "a.safetensors"
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "--epochs", "0", "-o", edited) == 0
    spec = f"exemplars:{tmp_path}/a.exemplars.safetensors"
    assert call(monkeypatch, "apply", edited, *QUICK, "--arch", "test_resnet", "--data", spec, "--dry-run") == 0
    assert f"was synthesized from another checkpoint than {edited}." in capsys.readouterr().err


USED, MADE = "are those that this run would make", "pixels are synthesized"


@pytest.mark.parametrize("epochs", ["2", "0"])
def test_an_interrupted_run_goes_on_with_the_exemplars_that_it_has_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path, epochs: str
) -> None:
    output = tiny.with_name("test_resnet-sofm.safetensors")
    file = tiny.with_name("test_resnet-sofm.exemplars.safetensors")
    command = ["apply", tiny, *QUICK, *FEW, "--epochs", epochs]
    assert call(monkeypatch, *command) == 0
    first, kept = load_file(output), read_exemplars(file)
    marked = dataclasses.replace(kept, images=255 - kept.images)
    for given, words in (([], USED), (["--restart"], MADE)):
        # As it stands after an interruption: nothing but the exemplars.
        for path in (output, output.with_suffix(".json")):
            path.unlink()
        save_exemplars(file, marked, overwrite=True)
        assert call(monkeypatch, *command, *given) == 0
        assert words in capsys.readouterr().err
        again = load_file(output)
        assert torch.equal(read_exemplars(file).images, marked.images if words == USED else kept.images)
        assert all(torch.equal(value, again[key]) for key, value in first.items()) == (words == MADE)
    assert not output.with_suffix(".state").exists()


def test_exemplars_that_other_options_have_made_are_neither_used_nor_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    output = tiny.with_name("test_resnet-sofm.safetensors")
    file = tiny.with_name("test_resnet-sofm.exemplars.safetensors")
    command = ["apply", tiny, *QUICK, *FEW, "--epochs", "0"]
    assert call(monkeypatch, *command) == 0
    output.unlink()
    output.with_suffix(".json").unlink()
    before = file.read_bytes()
    capsys.readouterr()
    for other in (
        ["--exemplars", "5"],
        ["--exemplar-steps", "2"],
        ["--exemplar-size", "31,32"],
        ["--seed", "1"],
        ["--mean", "0.1,0.2,0.3"],
        ["--std", "0.1,0.2,0.3"],
    ):
        assert call(monkeypatch, *command, *other) == 1
        assert f"{file} exists" in capsys.readouterr().err
        assert file.read_bytes() == before
    # But if the run itself has said that it writes there, it may.
    StateFolder(output.with_suffix(".state")).announce({file: hashlib.sha256(before).hexdigest()})
    assert call(monkeypatch, *command, "--seed", "1", "--epochs", "1") == 0
    assert MADE in capsys.readouterr().err
    assert file.read_bytes() != before


def test_exemplars_of_other_weights_in_the_same_file_are_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "both.pth"
    torch.save({name: small_network(seed=seed).state_dict() for seed, name in enumerate(("model", "model_ema"))}, path)
    command = ["apply", path, "--arch", "test_resnet", *QUICK, *FEW, "--epochs", "0", "--overwrite"]
    for key, words in (("model", MADE), ("model", USED), ("model_ema", MADE), ("model_ema", USED)):
        assert call(monkeypatch, *command, "--weights", key) == 0
        assert words in capsys.readouterr().err


def test_pictures_that_an_interrupted_run_did_not_come_to_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    output, pictures = tiny.with_name("test_resnet-sofm.safetensors"), tiny.with_name("pictures")
    command = ["apply", tiny, *QUICK, *FEW, "--epochs", "0", "--save-exemplars", pictures]
    assert call(monkeypatch, *command) == 0
    written = {path.name: path.read_bytes() for path in pictures.iterdir()}
    for gone in (sorted(written)[3:], sorted(written)):
        for name in gone:
            (pictures / name).unlink()
        for path in (output, output.with_suffix(".json")):
            path.unlink()
        assert call(monkeypatch, *command) == 0
        assert USED in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in pictures.iterdir()} == written
    # Those of another network do not stay among the new ones.
    assert call(monkeypatch, *command, "--exemplars", "4", "--overwrite") == 0
    assert len(list(pictures.iterdir())) == 4


def test_a_run_that_edited_nothing_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    nothing = ["--method", "channel-regeneration", "--inhibited-only", "1e-9", *SIZE, *FEW, "--epochs", "1"]
    for words in (MADE, USED):
        assert call(monkeypatch, "apply", tiny, *nothing) == 1
        shown = capsys.readouterr().err
        assert words in shown
        assert "edited nothing" in shown
        assert sorted(tiny.parent.iterdir()) == [
            tiny.with_name("test_resnet-channel-regeneration.exemplars.safetensors"),
            tiny,
        ]


def test_its_record_replays_to_the_bit(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "--save-exemplars", tmp_path / "p") == 0
    record = tiny.with_name("test_resnet-sofm.json")
    assert call(monkeypatch, "apply", tiny, "--recipe", record, "-o", tmp_path / "again.safetensors") == 0
    first, second = (load_file(tmp_path / name) for name in ("test_resnet-sofm.safetensors", "again.safetensors"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_the_teacher_is_the_original_alone_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    arguments = ["apply", tiny, *QUICK, "--data", "random", "--limit", "6", "--overwrite"]
    record = tiny.with_name("test_resnet-sofm.json")
    for given, expected in (((), (1, 0.003)), (("--teacher-weight", "0.5", "--lr", "0.01"), (0.5, 0.01))):
        assert call(monkeypatch, *arguments, *given) == 0
        tuning = json.loads(record.read_text())["tuning"]
        assert (tuning["teacher_weight"], tuning["lr"]) == expected
    written = json.loads(record.read_text())
    assert written["data"] == {"name": "random", "kind": "random", "count": 6}
    assert any("for speed and tests only" in note for note in written["notes"])


def test_none_are_made_where_nothing_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    arguments = ["apply", tiny, *SIZE, "--epochs", "0", "--overwrite"]
    for method in (["channel-regeneration", "--preserve"], ["reinit", "--no-recalibrate"]):
        assert call(monkeypatch, *arguments, "--method", *method) == 0
        assert "exemplars" not in capsys.readouterr().err
    assert not list(tiny.parent.glob("*.exemplars.safetensors"))
    # What moves values wants BatchNorm's statistics measured anew.
    assert call(monkeypatch, *arguments, "--method", "reinit", *FEW) == 0
    record = json.loads(tiny.with_name("test_resnet-reinit.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["original", "operated", "recalibrated"]
    assert tiny.with_name("test_resnet-reinit.exemplars.safetensors").exists()


def test_a_dry_run_measures_on_exemplars_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert call(monkeypatch, "apply", tiny, *QUICK, *FEW, "--dry-run") == 0
    shown = capsys.readouterr()
    assert "layer4" in shown.out
    assert "6 exemplars" in shown.err
    assert call(monkeypatch, "apply", tiny, "--method", "reinit", *SIZE, *FEW, "--dry-run") == 0
    assert "exemplars" not in capsys.readouterr().err
    assert list(tiny.parent.iterdir()) == [tiny]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--exemplar-size", "8,x"], "--exemplar-size"),
        (["--exemplar-size", "8,8,8"], "height and width"),
        (["--exemplar-size", "0"], "two positive numbers"),
        (["--exemplars", "1"], "--exemplars 2 or more"),
        (["--exemplar-size", "8,512"], "too large or too long"),
        (["--data", "exemplars:missing.safetensors"], "no file of exemplars"),
        (["--save-exemplars", "{folder}"], "not empty"),
        (["-o", "{folder}/taken.safetensors"], "taken.exemplars.safetensors exists"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
    arguments: list[str],
    words: str,
) -> None:
    taken = tiny.with_name("taken.exemplars.safetensors")
    taken.write_text("mine")
    filled = [argument.format(folder=tiny.parent) for argument in arguments]
    steps = [] if "--data" in arguments else ["--exemplar-steps", "1"]
    assert call(monkeypatch, "apply", tiny, *QUICK, *steps, *filled) == 1
    shown = capsys.readouterr().err
    assert words in shown
    assert MADE not in shown
    assert taken.read_text() == "mine"
    assert set(tiny.parent.iterdir()) == {tiny, taken}
