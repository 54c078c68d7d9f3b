"""Opening data sets: folders, timm's names and the digits, and what is wrong with some."""

import gzip
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from surgeon.data import ImageConfig, ImageData, check_classes, make_loader, open_data
from surgeon.data.images import ImageTensors
from surgeon.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "cifar10"
CONFIG = ImageConfig((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.875)


def _write(folder: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 4, size: int = 16) -> Path:
    """Images of one gray a file: 10 more for every image, 100 more for every class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            level = (100 * number + 10 * index) % 256
            Image.new("RGB", (size, size), (level, level, level)).save(folder / name / f"{index}.png")
    return folder


def _refusal(spec: str | Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        open_data(str(spec), CONFIG, **options)
    assert caught.value.remedy.endswith(".")
    return caught.value.problem


def _iterate(dataset: Dataset[Any]) -> list[tuple[torch.Tensor, int]]:
    assert isinstance(dataset, ImageTensors)
    return [dataset[index] for index in range(len(dataset))]


def _levels(data: Dataset[Any]) -> list[int]:
    """The gray of every image, with the normalization undone."""
    return [round(float(image.mean() * 0.5 + 0.5) * 255) for image, _ in _iterate(data)]


def test_images_are_told_from_others_without_reading_one(tmp_path: Path) -> None:
    _write(tmp_path / "a")

    def told(seed: int = 0, limit: int | None = 6) -> str:
        data = open_data(str(tmp_path / "a"), CONFIG, hold_out=0, limit=limit, seed=seed)
        assert isinstance(data.train, ImageTensors)
        return data.train.names_sha256

    first = told()
    assert told() == first
    # No byte of an image is looked at.
    (tmp_path / "a" / "cat" / "0.png").write_bytes(b"")
    assert told() == first
    assert len({first, told(seed=1), told(limit=None)}) == 3
    (tmp_path / "a" / "cat" / "1.png").rename(tmp_path / "a" / "cat" / "9\udc80.png")
    renamed = told()
    (tmp_path / "a" / "cat" / "9\udc80.png").rename(tmp_path / "a" / "dog" / "1a.png")
    assert len({first, renamed, told()}) == 3


@pytest.mark.parametrize("validation", ["val", "validation", "test"])
def test_a_folder_with_splits(tmp_path: Path, validation: str) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / validation, each=2)
    data = open_data(str(tmp_path), CONFIG)
    assert data.name == str(tmp_path)
    assert data.classes == ("cat", "dog")
    assert [len(part) for part in (data.train, data.calibration, data.val)] == [8, 8, 4]
    assert _levels(data.calibration) == [0, 10, 20, 30, 100, 110, 120, 130]
    assert _levels(data.val) == [0, 10, 100, 110]
    assert [data.val[index][1] for index in range(4)] == [0, 0, 1, 1]
    assert data.notes == ()
    assert bool(data.training_notes) == (validation == "test")


def test_val_goes_before_validation_and_that_before_test(tmp_path: Path) -> None:
    for each, name in enumerate(("val", "validation", "test", "train"), start=2):
        _write(tmp_path / name, each=each)
    assert len(open_data(str(tmp_path), CONFIG).val) == 4
    for name in ("cat", "dog"):
        for file in (tmp_path / "val" / name).iterdir():
            file.unlink()
        (tmp_path / "val" / name).rmdir()
    assert len(open_data(str(tmp_path), CONFIG).val) == 6


@pytest.mark.parametrize("inside", ["", "train", "val"])
def test_without_a_second_split_a_tenth_is_held_out_and_noted(tmp_path: Path, inside: str) -> None:
    _write(tmp_path / inside, each=20)
    data = open_data(str(tmp_path), CONFIG, seed=3)
    assert (len(data.train), len(data.val)) == (36, 4)
    assert sorted(data.val[index][1] for index in range(4)) == [0, 0, 1, 1]
    assert sorted(_levels(data.calibration) + _levels(data.val)) == sorted(
        (100 * number + 10 * index) % 256 for number in range(2) for index in range(20)
    )
    assert any("4 of the 40" in note for note in data.notes)
    assert _levels(open_data(str(tmp_path), CONFIG, seed=3).val) == _levels(data.val)
    assert _levels(open_data(str(tmp_path), CONFIG, seed=4).val) != _levels(data.val)


def test_nothing_is_held_out_where_only_a_score_is_wanted(tmp_path: Path) -> None:
    data = open_data(str(_write(tmp_path / "x")), CONFIG, hold_out=0)
    assert len(data.val) == len(data.train) == 8
    assert data.notes


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    data = open_data(str(_write(tmp_path / "x", classes=("bus", "test", "train"))), CONFIG)
    assert data.classes == ("bus", "test", "train")


def test_hidden_folders_and_other_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    data = open_data(str(tmp_path), CONFIG)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) == 8


def test_a_limit_is_stratified_and_noted(tmp_path: Path) -> None:
    _write(tmp_path / "train", each=10)
    _write(tmp_path / "val", each=3)
    data = open_data(str(tmp_path), CONFIG, limit=6)
    assert (len(data.train), len(data.calibration), len(data.val)) == (6, 6, 6)
    assert sorted(data.train[index][1] for index in range(6)) == [0, 0, 0, 1, 1, 1]
    assert any("6 of 20 training" in note for note in data.notes)
    assert _levels(data.calibration) == _levels(open_data(str(tmp_path), CONFIG, limit=6).calibration)


def test_a_limit_below_the_number_of_classes_says_which_classes_are_without_images() -> None:
    data = open_data("digits", CONFIG, limit=7)
    assert any("3 of 10 classes" in note for note in data.notes)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_must_be_positive(limit: int) -> None:
    assert str(limit) in _refusal("digits", limit=limit)


def test_a_hold_out_must_leave_training_images_of_every_class(tmp_path: Path) -> None:
    _write(tmp_path, classes=("a", "b"), each=20)
    _write(tmp_path, classes=("c",), each=60)
    # 0.99 of 20 rounds to 20, and of 60 to 59.
    assert "99 % of the images leaves no training image for 2 of 3 classes" in _refusal(tmp_path, hold_out=0.99)
    assert len(open_data(str(tmp_path), CONFIG, hold_out=0.97).train) == 1 + 1 + 2


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_hold_out_must_leave_images(share: float) -> None:
    assert str(share) in _refusal("digits", hold_out=share)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "none")
    file = tmp_path / "file"
    file.touch()
    assert "no folder" in _refusal(file)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no folders of classes" in _refusal(empty)
    assert "one class" in _refusal(_write(tmp_path / "one", classes=("cat",)))
    _write(tmp_path / "hole")
    (tmp_path / "hole" / "ant").mkdir()
    assert "ant" in _refusal(tmp_path / "hole")
    pair = tmp_path / "pair"
    _write(pair / "train", classes=("ant", "bee", "cat"))
    _write(pair / "val", classes=("bee", "cat", "dog"))
    problem = _refusal(pair)
    assert "ant" in problem
    assert "dog" in problem
    assert _refusal("a\0b")


def test_names_of_classes_stay_in_one_short_line(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "hole" / f"new\nline{number:03}{'x' * 100}").mkdir(parents=True)
    problem = _refusal(tmp_path / "hole")
    assert r"new\nline000" in problem
    assert problem.endswith(" and 2 more.")
    _write(tmp_path / "pair\nx" / "train", classes=("ant\x1b[2J", "bee"))
    _write(tmp_path / "pair\nx" / "val", classes=("bee",))
    differing = _refusal(tmp_path / "pair\nx")
    assert r"ant\x1b[2J" in differing
    for one in (problem, differing, _refusal(tmp_path / "none\nx"), _refusal(tmp_path / "pair\nx" / "val" / "bee")):
        assert one.isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    _write(tmp_path / "x")
    (tmp_path / "x" / "cat").chmod(0)
    try:
        assert "cat" in _refusal(tmp_path / "x")
    finally:
        (tmp_path / "x" / "cat").chmod(0o755)


def _png(content: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b"no image", lambda b: b[: len(b) // 2], lambda b: b[:40] + b"\0" * 20 + b[60:]],
    ids=["empty", "foreign", "truncated", "corrupt"],
)
def test_an_unreadable_image_is_named_also_from_a_worker(
    tmp_path: Path, workers: int, damage: Callable[[bytes], bytes]
) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "val")
    bad = tmp_path / "train" / "dog" / "2.png"
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(damage(bad.read_bytes()))
    data = open_data(str(tmp_path), CONFIG)
    batches = iter(make_loader(data.train, batch_size=2, workers=workers))
    with pytest.raises(DataError) as caught:
        list(batches)
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        # Left to the garbage collector, torch waits five seconds for every worker.
        batches._shutdown_workers()
    assert str(bad) in caught.value.problem
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy.endswith(".")


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "val")
    data = open_data(str(tmp_path), CONFIG)
    (tmp_path / "val" / "cat" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        data.val[1]


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("1", "bmp")]
)
def test_images_of_every_mode_become_what_the_network_takes(tmp_path: Path, mode: str, suffix: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (20, 12), (255, 255, 255)).convert(mode).save(tmp_path / name / f"{index}.{suffix}")
    for channels in (1, 3):
        config = replace(CONFIG, input_size=(channels, 16, 16), mean=(0.5,) * channels, std=(0.5,) * channels)
        image, label = open_data(str(tmp_path), config).calibration[0]
        assert image.shape == (channels, 16, 16)
        assert image.dtype == torch.float32
        assert image.mean().item() == pytest.approx(1, abs=0.02)
        assert type(label) is int


def test_digits_are_sklearns_in_a_fixed_split() -> None:
    config = replace(CONFIG, input_size=(1, 8, 8), mean=(0.0,), std=(1.0,))
    data = open_data("digits", config)
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.calibration), len(data.val)) == (1437, 1437, 360)
    other = open_data("digits", config, seed=99)
    pixels = {part: torch.stack([image for image, _ in source]) for part, source in _parts(data)}
    assert torch.equal(pixels["val"], torch.stack([image for image, _ in _iterate(other.val)]))
    # Together they are the 1,797 images, and each as bright as sklearn has it (16 levels).
    total = sum(float(part.double().sum()) for part in pixels.values()) * 16
    assert total == pytest.approx(load_digits().data.sum(), rel=1e-3)
    labels = torch.tensor([label for _, label in _iterate(data.val)])
    counts = torch.bincount(labels)
    assert counts.min() >= 35
    assert counts.max() <= 37
    brightest = int(pixels["val"].argmax()) // 64
    assert pixels["val"][brightest].max() == 1


def _parts(data: ImageData) -> list[tuple[str, list[tuple[torch.Tensor, int]]]]:
    return [("calibration", _iterate(data.calibration)), ("val", _iterate(data.val))]


def test_digits_fill_any_input() -> None:
    data = open_data("digits", replace(CONFIG, input_size=(3, 64, 64)))
    for part in (data.train, data.val):
        image, _ = part[0]
        assert image.shape == (3, 64, 64)
        assert torch.equal(image[0], image[1])
        assert image.max() - image.min() > 1.5


def _idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())


def test_a_torchvision_data_set(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part, count in (("train", 30), ("t10k", 20)):
        images = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), dtype=np.uint8)
        _idx(raw / f"{part}-images-idx3-ubyte", images)
        _idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    data = open_data("torch/mnist", CONFIG, root=tmp_path)
    assert len(data.classes) == 10
    assert (len(data.train), len(data.val)) == (30, 20)
    assert _levels(data.val) == list(range(20))
    assert [data.val[index][1] for index in range(12)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_torchvision_data_sets_that_are_refused(tmp_path: Path) -> None:
    assert "torch/mnist" in _refusal("torch/mnist", root=tmp_path)
    assert "torch/no_such" in _refusal("torch/no_such", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def _parquet(folder: Path, split: str, count: int, image: str = "image", label: str = "label") -> None:
    datasets = pytest.importorskip("datasets")
    pixels = [Image.new("RGB", (16, 16), (index, index, index)) for index in range(count)]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=["no", "yes"])})
    rows = {image: pixels, label: [index % 2 for index in range(count)]}
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label")])
def test_a_hugging_face_data_set(tmp_path: Path, image: str, label: str) -> None:
    _parquet(tmp_path / "set", "train", 12, image, label)
    _parquet(tmp_path / "set", "test", 6, image, label)
    data = open_data(f"hfds/{tmp_path / 'set'}", CONFIG, root=tmp_path / "cache")
    assert data.classes == ("no", "yes")
    assert _levels(data.calibration) == list(range(12))
    assert _levels(data.val) == list(range(6))
    assert [data.val[index][1] for index in range(6)] == [0, 1, 0, 1, 0, 1]
    assert any("test" in note for note in data.training_notes)


def test_a_hugging_face_data_set_of_one_split(tmp_path: Path) -> None:
    _parquet(tmp_path / "set", "train", 40)
    data = open_data(f"hfds/{tmp_path / 'set'}", CONFIG, root=tmp_path / "cache")
    assert (len(data.train), len(data.val)) == (36, 4)


def test_an_unreadable_image_of_a_hugging_face_data_set_is_not_skipped(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"image": [{"bytes": b"no image", "path": "x.png"}] * 20, "label": [0, 1] * 10}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    data = open_data(f"hfds/{tmp_path / 'set'}", CONFIG, root=tmp_path / "cache")
    with pytest.raises(DataError, match=r"x\.png"):
        data.val[0]


def test_hugging_face_data_sets_that_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    assert "none" in _refusal(f"hfds/{tmp_path / 'none'}", root=tmp_path / "cache")


def test_a_hub_out_of_reach_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    asked = []

    def fail(address: str, timeout: float) -> None:
        asked.append((address, timeout))
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr("surgeon.data.named.request.urlopen", fail)
    assert f"{hub.ENDPOINT} cannot be reached" in _refusal("hfds/nope")
    assert asked == [(hub.ENDPOINT, 10)]
    assert "folder /no/such/folder" in _refusal("hfds//no/such/folder")
    assert len(asked) == 1


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"datasets is not installed.*pip install datasets"):
        open_data("hfds/anything", CONFIG)


def test_the_shared_images(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    if not SHARED.exists():
        pytest.skip("the shared images are not beside the repository")
    config = replace(CONFIG, input_size=(3, 32, 32))
    data = open_data(f"hfds/{SHARED.resolve()}", config, limit=100, root=tmp_path)
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"
    assert (len(data.train), len(data.val)) == (100, 100)
    assert torch.bincount(torch.tensor([label for _, label in _iterate(data.val)])).tolist() == [10] * 10
    assert any("100 of 50000 training" in note for note in data.notes)


def test_streams_need_their_library() -> None:
    try:
        import webdataset  # noqa: F401
    except ImportError:
        assert "webdataset" in _refusal("wds/nowhere")


def test_streams(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    for split, count in (("train", 8), ("validation", 6)):
        with webdataset.TarWriter(str(tmp_path / f"{split}-0.tar")) as sink:
            for index in range(count):
                sink.write({"__key__": f"{index}", "png": Image.new("RGB", (16, 16), (index,) * 3), "cls": index % 2})
    splits = {
        split: {"name": split, "num_samples": count, "filenames": [f"{split}-0.tar"], "shard_lengths": [count]}
        for split, count in (("train", 8), ("validation", 6))
    }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    data = open_data(f"wds/{tmp_path}", CONFIG, limit=5)
    assert data.classes == ()
    check_classes(data, 77)
    assert len(data.val) == 5
    images, labels = next(iter(make_loader(data.val, batch_size=5)))
    assert images.shape == (5, 3, 16, 16)
    assert labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("kind", ["torch/folder", "torch/inaturalist", "hfds"])
def test_a_pipe_among_the_images_of_a_library_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    names = [f"{number:05}_a_b_c_d_e_f_g{number}" for number in range(2)]
    folders = {"torch/inaturalist": ("2021_train", "2021_valid")}.get(kind, ("train", "val"))
    for folder in folders:
        _write(tmp_path / folder, classes=names)
    spec = kind
    if kind == "hfds":
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
        paths = [str(tmp_path / "train" / name / f"{place}.png") for name in names for place in range(4)]
        rows = {"image": [{"bytes": None, "path": path} for path in paths], "label": [0] * 4 + [1] * 4}
        (tmp_path / "set").mkdir()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
        spec = f"hfds/{tmp_path / 'set'}"
    images = open_data(spec, CONFIG, root=tmp_path / "cache" if kind == "hfds" else tmp_path, hold_out=0.0).calibration
    place = _levels(images).index(120)
    pipe = tmp_path / folders[0] / names[1] / "2.png"
    pipe.unlink()
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"cannot be read \(.*it is no regular file"):
        images[place]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("name", ["_info.json", "train-0.tar"])
def test_a_pipe_among_the_shards_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "train-0.tar").touch()
    split = SimpleNamespace(filenames=("train-0.tar",))
    reader = SimpleNamespace(split_info=split, class_to_idx={})
    monkeypatch.setattr("surgeon.data.streams.create_dataset", lambda *_, **__: SimpleNamespace(reader=reader))
    open_data(f"wds/{tmp_path}", CONFIG)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert f"{name} cannot be read (it is no regular file)" in _refusal(f"wds/{tmp_path}")


def test_check_classes(tmp_path: Path) -> None:
    data = open_data(str(_write(tmp_path, classes=("a", "b", "c"))), CONFIG)
    check_classes(data, 3)
    for outputs in (2, 1000):
        with pytest.raises(DataError, match=rf"3 classes.*{outputs}") as caught:
            check_classes(data, outputs)
        assert str(tmp_path) in caught.value.problem
