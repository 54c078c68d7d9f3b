"""What a run of a comparison is known by: what files hold, and not how they are named."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from small_jobs import make_job
from torch.utils.data import IterableDataset

from surgeon.checkpoint import Architecture
from surgeon.data import ImageConfig, ImageData, open_data
from surgeon.operate.comparison_recipe import architecture_term, images_term, recipe

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images of two classes in the folder `images` of the folder in which the test runs."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "images"


def term(spec: str, **job: Any) -> list[Any]:
    config = ImageConfig((3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return images_term(make_job(None, **job), open_data(spec, config), CPU)


def test_a_folder_is_the_same_however_it_is_spelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = term("images")
    assert term("./images") == term("images/") == first
    assert first[0] == f":{folder}"
    other = folder.parent / "other"
    other.mkdir()
    folder.rename(other / "images")
    monkeypatch.chdir(other)
    assert term("images") != first


def test_where_images_are_varied_counts_and_not_how_that_was_asked_for(folder: Path) -> None:
    assert term("images", device_data="auto") == term("images", device_data="no") != term("images", device_data="yes")


def test_the_workers_count_only_where_they_share_a_stream(folder: Path) -> None:
    assert term("images", workers=0) == term("images", workers=2)

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    images = ImageData("a stream", (), Stream(), Stream(), Stream())
    none, two = (images_term(make_job(None, workers=workers), images, CPU) for workers in (0, 2))
    assert none != two


def test_a_file_of_code_is_known_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("def net(): ...\n")
    second.write_text("def net(): ...\n")
    assert architecture_term(Architecture("file", f"{first}:net")) == architecture_term(
        Architecture("file", f"{second}:net")
    )
    second.write_text("def net(): pass\n")
    assert architecture_term(Architecture("file", f"{first}:net")) != architecture_term(
        Architecture("file", f"{second}:net")
    )
    assert architecture_term(Architecture("timm", "resnet18", {"num_classes": 2})) == ["resnet18", {"num_classes": 2}]


def test_the_spelling_of_options_and_the_libraries_versions() -> None:
    job = make_job(None, recipe={"data": "./images", "device-data": "no", "workers": 2, "limit": 12})
    known = recipe(job, {"checkpoint": None})
    assert known["asked"] == {"limit": 12}
    assert {"torch", "timm", "surgeon", "torchvision", "pillow", "accelerate"} <= known.keys()
    assert recipe(dataclasses.replace(job, seed=job.seed + 1), {}) != recipe(job, {})
