"""Images that cannot be read: named, or left out with another of their class in their place."""

from pathlib import Path

import pytest
import torch
from bad_images import DAMAGE, image_folder
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from surgeon.data import ImageConfig, ImageData, make_loader, open_data
from surgeon.data.images import ImageTensors
from surgeon.data.on_device import DeviceImages
from surgeon.data.unreadable import Unreadable, UnreadableImageError, UnreadableImagesError, stand_ins
from surgeon.errors import DataError

CONFIG = ImageConfig((1, 8, 8), (0.5,), (0.5,), "bilinear", 1.0)


def opened(folder: Path, *, skip: bool = True, hold_out: float = 0.25) -> ImageData:
    return open_data(str(folder), CONFIG, hold_out=hold_out, skip_bad_images=skip)


def batches(data: torch.utils.data.Dataset, workers: int = 0, **others: bool) -> tuple[torch.Tensor, torch.Tensor]:
    found = iter(make_loader(data, batch_size=5, workers=workers, **others))
    try:
        both = list(found)
    finally:
        if isinstance(found, _MultiProcessingDataLoaderIter):
            # Left to the garbage collector, torch waits five seconds for every worker.
            found._shutdown_workers()
    return torch.cat([images for images, _ in both]), torch.cat([labels for _, labels in both])


def path_of(images: torch.utils.data.Dataset, place: int) -> Path:
    assert isinstance(images, ImageTensors)
    return Path(images.images.where(int(images.indices[place])))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_image_is_named_or_left_out(tmp_path: Path, damage: str) -> None:
    image_folder(tmp_path)
    strict, lenient = opened(tmp_path, skip=False), opened(tmp_path)
    expected, labels = batches(strict.calibration)
    bad = path_of(strict.calibration, 7)
    DAMAGE[damage](bad)
    with pytest.raises(UnreadableImageError) as caught:
        batches(strict.calibration)
    assert str(bad) in caught.value.problem
    assert "\n" not in str(caught.value)
    assert "--skip-bad-images" in caught.value.remedy
    found, found_labels = batches(lenient.calibration)
    # Six training images a class are left: 7 is the second of the second class, and 8 the one after it.
    expected[7] = expected[8]
    assert torch.equal(found, expected)
    assert torch.equal(found_labels, labels)
    ((images, unreadable),) = lenient.skipping
    assert [images.where(index) for index in unreadable.found] == [str(bad)]


def test_what_stands_in_is_of_the_same_class_from_the_next_one_on_and_around() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 2])
    assert stand_ins(2, labels) == [4, 0]
    assert stand_ins(4, labels) == [0, 2]
    assert stand_ins(5, labels) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_epochs_find_the_same_stand_ins(tmp_path: Path, workers: int) -> None:
    image_folder(tmp_path, each=16)
    data = opened(tmp_path)
    path_of(data.train, 0).write_bytes(b"")
    path_of(data.train, 1).unlink()
    first = batches(data.calibration, workers)
    assert torch.equal(first[0], batches(data.calibration)[0])
    # Both are of the first class, and so is what stands in for them: the one after the second.
    assert torch.equal(first[0][0], first[0][2])
    assert torch.equal(first[0][1], first[0][2])
    # The marks of the workers are known here.
    assert data.skipping[0][1].found == [int(index) for index in data.calibration.indices[:2]]


def test_no_image_of_the_other_part_stands_in(tmp_path: Path) -> None:
    image_folder(tmp_path)
    data = opened(tmp_path)
    for place in range(2):
        path_of(data.val, place).unlink()
    # Two of six is more than a tenth, and the second class is never asked.
    with pytest.raises(UnreadableImagesError, match=r"^1 of 6 images cannot be read, more than the 10 %"):
        batches(data.val)


def test_a_tenth_may_be_left_out_and_no_more(tmp_path: Path) -> None:
    image_folder(tmp_path, each=10)
    data = opened(tmp_path, hold_out=0.0)
    for place in (3, 14, 25):
        path_of(data.train, place).write_bytes(b"bad")
    batches(data.train, shuffle=True)
    assert len(data.skipping[0][1].found) == 3
    path_of(data.train, 6).write_bytes(b"bad")
    for workers in (0, 1):
        with pytest.raises(UnreadableImagesError, match=r"^4 of 30 images cannot be read") as caught:
            batches(data.train, workers)
        assert "\n" not in str(caught.value)


def test_a_class_that_is_gone_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path, each=20)
    for path in (tmp_path / "dog").iterdir():
        path.unlink()
    (tmp_path / "dog" / "0.png").write_bytes(b"bad")
    with pytest.raises(UnreadableImagesError, match=r"^No image of the class dog can be read\. "):
        batches(opened(tmp_path, hold_out=0.0).val)


def test_images_that_lie_on_the_device_are_left_out_too(tmp_path: Path) -> None:
    image_folder(tmp_path)
    data = opened(tmp_path)
    path_of(data.calibration, 7).unlink()
    found, labels = batches(DeviceImages(data.calibration, torch.device("cpu"), workers=1))
    expected, expected_labels = batches(data.calibration)
    assert torch.allclose(found, expected)
    assert torch.equal(labels, expected_labels)
    assert len(data.skipping[0][1].found) == 1


def test_splits_keep_marks_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image_folder(tmp_path / split, each=10)
    data = opened(tmp_path)
    path_of(data.val, 4).unlink()
    batches(data.val)
    batches(data.train)
    assert [unreadable.found for _, unreadable in data.skipping] == [[], [4]]


def test_an_image_stays_out_once_it_was(tmp_path: Path) -> None:
    image_folder(tmp_path, each=10)
    data = opened(tmp_path)
    bad = path_of(data.calibration, 0)
    content = bad.read_bytes()
    bad.write_bytes(b"")
    first, _ = batches(data.calibration)
    bad.write_bytes(content)
    assert torch.equal(batches(data.calibration)[0], first)


def test_streams_and_what_is_no_file_cannot_skip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stream wds/x cannot be left out"):
        open_data("wds/x", CONFIG, skip_bad_images=True)
    assert open_data("random", CONFIG, classes=3, skip_bad_images=True).skipping == ()
    assert 0 not in Unreadable(3)
