"""Exemplars and noise as data sets, and the file that keeps exemplars."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from surgeon.data import ImageConfig, open_data
from surgeon.data.exemplars import KEY, Exemplars, read_exemplars, save_exemplars
from surgeon.data.pictures import save_pictures
from surgeon.data.sampling import spread_labels
from surgeon.errors import DataError, OutputError

CONFIG = ImageConfig((3, 6, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.875)
ABOUT: dict[str, Any] = {
    "classes": 4, "checkpoint_sha256": "ab" * 32, "seed": 5, "steps": 9, "synthesis_sha256": "cd" * 32,
}  # fmt: skip


def exemplars(channels: int = 3) -> Exemplars:
    images = torch.arange(5 * channels * 48).remainder(256).to(torch.uint8).reshape(5, channels, 6, 8)
    return Exemplars(images, torch.tensor([0, 1, 2, 3, 1]), **ABOUT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net-sofm.exemplars.safetensors"
    save_exemplars(path, exemplars())
    return path


def test_labels_are_spread_evenly() -> None:
    assert spread_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert spread_labels(4, 10).tolist() == [0, 2, 5, 7]
    assert spread_labels(3, 3).tolist() == [0, 1, 2]
    labels = spread_labels(32, 1000)
    assert labels.unique().numel() == 32
    assert labels.diff().unique().tolist() == [31, 32]


def test_the_file_gives_back_what_was_written(file: Path) -> None:
    read, written = read_exemplars(file), exemplars()
    assert torch.equal(read.images, written.images)
    assert torch.equal(read.labels, written.labels)
    assert read.described() == written.described()
    assert read.described() == {"count": 5, "size": [6, 8], **ABOUT}
    with pytest.raises(OutputError, match="exists"):
        save_exemplars(file, written)
    before = file.read_bytes()
    save_exemplars(file, written, overwrite=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.4375, 0.5, 1.0])
def test_how_many_are_recognized_is_kept_and_told(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    save_exemplars(path, dataclasses.replace(exemplars(), recognized=share))
    assert read_exemplars(path).recognized == share
    data = open_data(f"exemplars:{path}", CONFIG)
    assert data.source["recognized"] == share
    (note,) = (note for note in data.notes if "takes" in note)
    assert f"takes {share:.0%} of the exemplars" in note
    assert ("the synthesis did not work" in note) == (share < 0.5)


def test_exemplars_keep_their_own_size(file: Path) -> None:
    config = dataclasses.replace(CONFIG, input_size=(3, 12, 16))
    data = open_data(f"exemplars:{file}", config)
    images = torch.stack([data.calibration[index][0] for index in range(5)])
    torch.testing.assert_close(images, exemplars().images / 127.5 - 1)
    assert data.train[0, 0][0].shape == (3, 6, 8)
    assert any("at their own size, 6x8; the network's is 12x16" in note for note in data.notes)
    assert not any("own size" in note for note in open_data(f"exemplars:{file}", CONFIG).notes)


def test_exemplars_are_a_data_set(file: Path) -> None:
    data = open_data(f"exemplars:{file}", CONFIG)
    assert data.classes == ("0", "1", "2", "3")
    assert not data.real
    assert data.source == {"kind": "exemplars", "file": str(file), **exemplars().described()}
    assert "not accuracy" in data.notes[0]
    for part in (data.calibration, data.val):
        pairs = [part[index] for index in range(5)]
        assert [label for _, label in pairs] == [0, 1, 2, 3, 1]
        images = torch.stack([image for image, _ in pairs])
        torch.testing.assert_close(images, exemplars().images / 127.5 - 1)
    varied = torch.stack([data.train[epoch, 0][0] for epoch in range(6)])
    assert varied.shape == (6, 3, 6, 8)
    assert len({image.numpy().tobytes() for image in varied}) > 1
    assert len(open_data(f"exemplars:{file}", CONFIG, limit=4).train) == 4


def test_gray_exemplars(tmp_path: Path) -> None:
    save_exemplars(tmp_path / "gray.safetensors", exemplars(1))
    config = ImageConfig((1, 6, 8), (0.0,), (1.0,), "bilinear", 1.0)
    image, _ = open_data(f"exemplars:{tmp_path}/gray.safetensors", config).calibration[1]
    torch.testing.assert_close(image, exemplars(1).images[1] / 255)


def _with(**change: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensors, about: about.update(change)


def _tensor(name: str, value: torch.Tensor) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda tensors, about: tensors.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_with(classes=1), "classes"),
        (_with(classes=2**40), "classes"),
        (_with(classes=True), "classes"),
        (_with(classes=3), "outside of its 3 classes"),
        (_with(seed=-1), "seed"),
        (_with(steps="9"), "steps"),
        (_with(checkpoint_sha256="x" * 64), "hexadecimal"),
        (_with(checkpoint_sha256=7), "hexadecimal"),
        (_with(synthesis_sha256="CD" * 32), "hexadecimal"),
        (_with(more=1), "other values"),
        (_with(recognized=1.5), "recognized"),
        (_with(recognized=math.nan), "recognized"),
        (_with(recognized=True), "recognized"),
        (_with(more="x" * 10_000), "no exemplars"),
        (_tensor("images", torch.zeros(5, 3, 6, 8)), "8-bit"),
        (_tensor("images", torch.zeros(5, 3, 6, dtype=torch.uint8)), "8-bit"),
        (_tensor("images", torch.zeros(0, 3, 6, 8, dtype=torch.uint8)), "0 images and 5 labels"),
        (_tensor("images", torch.zeros(5, 2, 6, 8, dtype=torch.uint8)), "2 channels"),
        (_tensor("images", torch.zeros(4, 3, 6, 8, dtype=torch.uint8)), "4 images and 5 labels"),
        (_tensor("images", torch.zeros(5, 3, 1, 17, dtype=torch.uint8)), "1x17 pixels"),
        (_tensor("images", torch.zeros(5, 3, 50_000, 1, dtype=torch.uint8)), "too large or too long"),
        (_tensor("images", torch.zeros(5, 3, 300, 4097, dtype=torch.uint8)), "too large or too long"),
        (_tensor("images", torch.zeros(5, 3, 0, 8, dtype=torch.uint8)), "0x8 pixels"),
        (_tensor("more", torch.zeros(1)), "more tensors than images and labels"),
        (_tensor("labels", torch.zeros(5)), "no labels"),
        (_tensor("labels", torch.zeros(5, 1, dtype=torch.int64)), "no labels"),
        (_tensor("labels", torch.tensor([0, 1, 2, 3, -1])), "outside"),
        (lambda tensors, about: tensors.pop("labels"), "no labels"),
        (lambda tensors, about: about.clear(), "other values"),
    ],
)
def test_a_spoilt_file_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any], dict[str, Any]], None], words: str
) -> None:
    made = exemplars()
    tensors, about = {"images": made.images, "labels": made.labels}, dict(ABOUT)
    spoil(tensors, about)
    save_file(tensors, tmp_path / "x.safetensors", {KEY: json.dumps(about)})
    with pytest.raises(DataError, match=words):
        read_exemplars(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("count", "size", "more", "words"),
    [
        (1000, (1024, 1024), {}, "take more than"),
        (5, (6, 8), {"other": (2**31,)}, "more tensors"),
        (1, (1, 2**28), {}, "too long"),
        (5, (6, 8), {str(number): (0,) for number in range(30_000)}, "more than the"),
    ],
)
def test_nothing_is_read_of_a_file_whose_header_promises_too_much(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    count: int,
    size: tuple[int, int],
    more: dict[str, tuple[int, ...]],
    words: str,
) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError(f"the tensors of {path} are read")

    kinds = {"images": (count, 3, *size), "labels": (count,), **more}
    path = tmp_path / "large.safetensors"
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps(ABOUT)}}
    end = 0
    for name, shape in kinds.items():
        kind, item_bytes = ("I64", 8) if name == "labels" else ("U8", 1)
        start, end = end, end + item_bytes * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # A file of any size that takes no place on the disk.
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr("surgeon.data.exemplars.read_safetensors", refuse)
    with pytest.raises(DataError, match=words):
        read_exemplars(path)


def test_other_files_are_refused(tmp_path: Path, file: Path) -> None:
    save_file({"images": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file({"images": torch.zeros(1)}, tmp_path / "text.safetensors", {KEY: "["})
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:-1])
    (tmp_path / "some.pt").write_bytes(b"")
    for name in ("other.safetensors", "text.safetensors", "short.safetensors", "some.pt", "missing.safetensors", "."):
        with pytest.raises(DataError) as caught:
            open_data(f"exemplars:{tmp_path / name}", CONFIG)
        assert caught.value.remedy.endswith(".")


def test_noise_is_for_tests_and_says_so() -> None:
    data = open_data("random", CONFIG, classes=10, seed=1)
    assert not data.real
    assert data.source == {"kind": "random", "count": 32}
    assert "for speed and tests only" in data.notes[0]
    images = torch.stack([data.calibration[index][0] for index in range(32)])
    # Uniform in [-1, 1] after normalization: mean 0 and variance 1/3.
    assert images.mean().abs() < 0.05
    assert images.var().item() == pytest.approx(1 / 3, abs=0.02)
    again, other = (open_data("random", CONFIG, classes=10, seed=seed).calibration[0][0] for seed in (1, 2))
    assert torch.equal(again, images[0])
    assert not torch.equal(other, images[0])
    assert len(open_data("random", CONFIG, classes=10, limit=3).train) == 3
    with pytest.raises(DataError, match="number of classes"):
        open_data("random", CONFIG)


def test_pictures_for_the_eye(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    save_pictures(folder, exemplars())
    other = dataclasses.replace(exemplars(), images=255 - exemplars().images[:3], labels=torch.tensor([0, 2, 2]))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{number:05}-class-{label}.png" for number, label in enumerate([0, 1, 2, 3, 1])]
    pixels = np.asarray(PIL.Image.open(folder / names[2]))
    assert np.array_equal(pixels, exemplars().images[2].permute(1, 2, 0).numpy())
    with pytest.raises(OutputError, match="not empty"):
        save_pictures(folder, other)
    (folder / names[1]).unlink()
    kept = (folder / names[2]).stat()
    # What stands there of the same images may have been left by a run that was killed.
    save_pictures(folder, exemplars())
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / names[2]).stat() == kept
    with pytest.raises(OutputError, match="does not exist"):
        save_pictures(tmp_path / "no" / "folder", exemplars())
    with pytest.raises(OutputError, match="exists"):
        save_pictures(folder / names[0], exemplars(), overwrite=True)
    (folder / "mine.png").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        save_pictures(folder, exemplars())
    save_pictures(folder, other, overwrite=True)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["00000-class-0.png", "00001-class-2.png", "00002-class-2.png", "mine.png"]
    assert np.asarray(PIL.Image.open(folder / left[0])).tolist() == other.images[0].permute(1, 2, 0).tolist()
