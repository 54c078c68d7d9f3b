"""Runs with images that cannot be read: stopped so that they can go on, or without those images, which are counted."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_images import DAMAGE, image_folder
from safetensors.torch import load_file
from small_jobs import make_job, run
from torch import nn
from two_stages import make_network

import surgeon
from surgeon.data import ImageConfig, ImageData, open_data
from surgeon.errors import DataError
from surgeon.operate.comparison_notes import SKIPPED, notes
from surgeon.operate.comparison_run import Outcome
from surgeon.operate.job import Job
from surgeon.operate.skipping import Skipping
from surgeon.operate.states import StateFolder

CONFIG = ImageConfig((1, 8, 8), (0.5,), (0.5,), "bilinear", 1.0)


def job(folder: Path, *, skip: bool, **others: Any) -> Job:
    """Return a job on 24 images of a folder, of which 6 validate."""
    if not (folder / "two.safetensors").exists():
        surgeon.save(folder / "two.safetensors", make_network())

    def images(model: nn.Module) -> ImageData:
        return open_data(str(folder / "images"), CONFIG, hold_out=0.25, seed=5, skip_bad_images=skip)

    recipe = {"skip-bad-images": True} if skip else {}
    values = {"init": "checkpoint", "images": images, "recipe": recipe, "epochs": 2, "save_every": 1, **others}
    return make_job(folder / "two.safetensors", output=folder / "out.safetensors", **values)


def damaged(folder: Path, name: str = "text", number: int = 7) -> Path:
    """Damage an image that is trained on."""
    data = open_data(str(folder / "images"), CONFIG, hold_out=0.25, seed=5)
    path = Path(data.calibration.images.where(int(data.calibration.indices[number])))
    DAMAGE[name](path)
    return path


class At:
    """Does something after so many batches, from 1, and lists the batches of training."""

    def __init__(self, number: int, what: Any) -> None:
        self.left = number
        self.what = what
        self.labels: list[int] = []

    def track(self, batches: Any, description: str, total: int | None = None, *, training: Any = None) -> Any:
        for batch in batches:
            self.left -= 1
            if not self.left:
                self.what()
            if training is not None:
                self.labels += batch[1].tolist()
            yield batch


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["vanished", "a truncated JPEG"])
def test_an_image_that_goes_bad_meanwhile_is_named_and_the_run_goes_on_without_it(tmp_path: Path, damage: str) -> None:
    image_folder(tmp_path / "images")
    bad: list[Path] = []
    # Three evaluations of one batch, and two batches of the first epoch of three.
    fault = At(6, lambda: bad.append(damaged(tmp_path, damage)))
    with pytest.raises(DataError) as caught:
        run(job(tmp_path, skip=False, epochs=3), track=fault.track)
    assert str(bad[0]) in caught.value.problem
    assert list((tmp_path / "out.state").glob("state-*"))
    assert not (tmp_path / "out.safetensors").exists()
    if damage == "vanished":
        # A folder that has an image less is another data set.
        bad[0].touch()
    said: list[str] = []
    record = run(job(tmp_path, skip=True, epochs=3), say=said.append)
    assert any(text.startswith("The run continues") for text in said)
    assert sum(str(bad[0]) in text and "is left out" in text for text in said) == 1
    assert record.data["skipped"] == 1
    assert any(str(bad[0]) in note and note.startswith("1 image that cannot be read was") for note in record.notes)
    assert not (tmp_path / "out.state").exists()


def test_a_run_that_goes_on_leaves_out_and_counts_what_it_did_before(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")
    bad = damaged(tmp_path)
    given: dict[str, Any] = {"skip": True, "overwrite": True}
    whole = run(job(tmp_path, **given))
    expected = tensors(tmp_path)
    # In the second epoch, when every image was read before.
    with pytest.raises(KeyboardInterrupt):
        run(job(tmp_path, **given), track=At(9, stop).track)
    # Repaired between the two halves of the run, which is one run all the same.
    bad.write_bytes(bad.with_name("1.png").read_bytes())
    said: list[str] = []
    record = run(job(tmp_path, **given), say=said.append)
    assert any(text.startswith("The run continues") for text in said)
    assert not any("left out" in text and str(bad) in text and text.startswith("The image") for text in said)
    assert tensors(tmp_path) == expected
    assert record.data == whole.data
    assert record.data["skipped"] == 1


def test_a_comparison_tells_that_its_runs_have_left_out_different_images(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")

    def outcome(seed: int) -> Outcome:
        done = run(job(tmp_path, skip=True, seed=seed, epochs=1, save_every=None, overwrite=True))
        return Outcome("control", seed, tmp_path, "", json.loads(done.to_json()), None)

    clean = outcome(0)
    bad = damaged(tmp_path)
    whole = bad.with_name("1.png").read_bytes()
    first = outcome(0)
    assert first.record is not None
    assert first.record["data"]["skipped"] == 1
    failed = Outcome("control", 2, tmp_path, "", None, "it failed")
    assert SKIPPED not in notes((), [first, dataclasses.replace(first, seed=1), failed], (), tmp_path)
    assert SKIPPED in notes((), [clean, first], (), tmp_path)
    # Another one instead, so that there is one again.
    assert damaged(tmp_path, number=8) != bad
    bad.write_bytes(whole)
    assert SKIPPED in notes((), [first, outcome(0)], (), tmp_path)


def tensors(folder: Path) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in load_file(folder / "out.safetensors").items()}


def test_every_epoch_and_the_method_see_the_images_that_the_control_does(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")
    damaged(tmp_path)
    seen = []
    for method in (None, "reinit"):
        fault = At(0, stop)
        options = {} if method is None else {"criterion": "l2", "ratio": 0.3}
        done = run(job(tmp_path, skip=True, method=method, options=options, overwrite=True), track=fault.track)
        assert done.data["skipped"] == 1
        seen.append(fault.labels)
    assert seen[0] == seen[1]
    # As many of every class in each of two epochs as there were before.
    assert sorted(seen[0][:18]) == sorted(seen[0][18:]) == [0] * 6 + [1] * 6 + [2] * 6


def test_what_an_earlier_run_of_other_images_found_is_forgotten(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")
    (tmp_path / "out.state").mkdir()
    (tmp_path / "out.state" / "unreadable").write_text(json.dumps([[0, 1]]))
    assert "skipped" not in run(job(tmp_path, skip=True)).data
    assert not (tmp_path / "out.state").exists()


@pytest.mark.parametrize("content", ["[[0, -1, 99, true, null, 1e9], 3]", "{}", "[[", "[[-1, 10000]]"])
def test_a_list_that_somebody_has_changed_does_no_harm(tmp_path: Path, content: str) -> None:
    image_folder(tmp_path / "images")
    states = StateFolder(tmp_path / "out.state")
    states.make()
    (states.path / "state-00000001.safetensors").touch()
    (states.path / "unreadable").write_text(content)
    data = open_data(str(tmp_path / "images"), CONFIG, hold_out=0.25, seed=5, skip_bad_images=True)
    Skipping(data, lambda text: None, states)
    assert data.skipping[0][1].found == []


def test_a_list_of_more_than_there_can_be_is_not_read(tmp_path: Path) -> None:
    states = StateFolder(tmp_path / "out.state")
    states.make()
    (states.path / "unreadable").write_text("[[1]," + "[]," * 2**19 + "[]]")
    assert states.unreadable == []
    (states.path / "unreadable").write_text("[[1],[]]")
    assert states.unreadable == [[1], []]


def test_too_many_bad_images_stop_the_run_with_a_state(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")

    def lose() -> None:
        for path in sorted((tmp_path / "images").rglob("*.png"))[::3]:
            path.write_bytes(b"")

    with pytest.raises(DataError, match=r"images cannot be read, more than the 10 % that may be left out"):
        run(job(tmp_path, skip=True), track=At(6, lose).track)
    assert list((tmp_path / "out.state").glob("state-*"))


def test_workers_tell_what_they_have_left_out(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")
    bad = damaged(tmp_path)
    said: list[str] = []
    record = run(dataclasses.replace(job(tmp_path, skip=True, epochs=1), workers=1), say=said.append)
    assert record.data["skipped"] == 1
    assert sum(str(bad) in text and "is left out" in text for text in said) == 1
    assert torch.isfinite(torch.tensor(record.epochs[-1]["loss"]))
