"""Images that lie on the device: the same as from the ordinary pipeline, varied in the same way."""

from typing import Any

import accelerate
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import functional

from surgeon.data import ImageConfig, make_loader, open_data
from surgeon.data.images import ImageTensors, LabelledImages
from surgeon.data.on_device import DeviceImages, why_not
from surgeon.data.transforms import training_transform

CPU = torch.device("cpu")
CONFIG = ImageConfig((3, 16, 16), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "bilinear", 1.0)
DATA = open_data("digits", CONFIG, limit=40, seed=3)


@pytest.fixture(scope="module")
def train() -> DeviceImages:
    return DeviceImages(DATA.train, CPU)


def in_memory(pixels: torch.Tensor, config: ImageConfig, flip: bool) -> DeviceImages:
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images = LabelledImages(("one",), labels, lambda index: functional.to_pil_image(pixels[index]), str)
    transform = training_transform(config, small=False, flip=flip)
    return DeviceImages(ImageTensors(images, torch.arange(len(pixels)), 3, transform, 0), CPU)


def epoch_of(loader: DataLoader[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("config", [CONFIG, ImageConfig((1, 12, 20), (0.3,), (0.6,), "bicubic", 0.9)])
def test_images_for_evaluation_are_the_same_to_the_bit(config: ImageConfig, workers: int) -> None:
    val = open_data("digits", config, limit=40).val
    ours = epoch_of(make_loader(DeviceImages(val, CPU, workers), batch_size=16, workers=2, pin_memory=True))
    theirs = epoch_of(make_loader(val, batch_size=16))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_every_training_image_is_a_crop_of_the_padded_one(train: DeviceImages) -> None:
    plain = [functional.pad(DATA.train.transform.pixels.fit(DATA.train.decoded(place)), 2) for place in range(40)]
    found = set()
    for epoch in range(6):
        images, labels = train.__getitems__([(epoch, place) for place in range(40)])
        assert torch.equal(labels, DATA.train.labels)
        for image, padded in zip(images, plain, strict=True):
            crops = {
                (top, left): functional.normalize(
                    functional.to_tensor(functional.crop(padded, top, left, 16, 16)), CONFIG.mean, CONFIG.std
                )
                for top in range(5)
                for left in range(5)
            }
            matching = {offset for offset, crop in crops.items() if torch.equal(crop, image)}
            assert matching
            found |= matching
    assert found == {(top, left) for top in range(5) for left in range(5)}


def test_images_are_mirrored_in_one_of_two_cases_where_that_shows_the_same() -> None:
    # A folder's pictures may be mirrored, and digits not; here of 32 x 32, moved by up to 4 pixels.
    ramp = torch.arange(32, dtype=torch.uint8).repeat(400, 3, 32, 1) * 7 + 1
    config = ImageConfig((3, 32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", 1.0)
    rising = []
    for flip in (True, False):
        images, _ = in_memory(ramp, config, flip).__getitems__([(0, place) for place in range(400)])
        rising.append((images[:, 0, 16, 20] > images[:, 0, 16, 10]).sum().item())
    assert 150 < rising[0] < 250
    assert rising[1] == 400


def test_an_image_varies_by_seed_and_epoch_and_not_by_its_batch(train: DeviceImages) -> None:
    whole, _ = train.__getitems__([(4, place) for place in range(40)])
    for start in range(0, 40, 7):
        part, _ = train.__getitems__([(4, place) for place in range(start, min(start + 7, 40))])
        assert torch.equal(part, whole[start : start + 7])
    assert torch.equal(train[4, 9][0], whole[9])
    assert not torch.equal(train.__getitems__([(5, place) for place in range(40)])[0], whole)
    other = DeviceImages(open_data("digits", CONFIG, limit=40, seed=4).train, CPU)
    assert not torch.equal(other.__getitems__([(4, place) for place in range(40)])[0], whole)


def test_the_order_is_that_of_the_ordinary_loader_also_under_accelerate(train: DeviceImages) -> None:
    ordinary = make_loader(DATA.train, batch_size=16, shuffle=True, seed=5)
    plain = make_loader(train, batch_size=16, shuffle=True, seed=5)
    prepared = accelerate.Accelerator(cpu=True).prepare(make_loader(train, batch_size=16, shuffle=True, seed=5))
    for epoch in range(2):
        prepared.set_epoch(epoch)
        (images, labels), (others, same) = epoch_of(plain), epoch_of(prepared)
        assert torch.equal(labels, epoch_of(ordinary)[1])
        assert torch.equal(labels, same)
        assert torch.equal(images, others)
    skipped = accelerate.skip_first_batches(make_loader(train, batch_size=16, shuffle=True, seed=5), 1)
    first = epoch_of(make_loader(train, batch_size=16, shuffle=True, seed=5))
    assert torch.equal(epoch_of(skipped)[0], first[0][16:])


def test_what_cannot_lie_on_the_device_is_told() -> None:
    assert why_not(DATA.train) is None
    assert why_not(DATA.val) is None
    # 40 images of 3 x 20 x 20 bytes, with a border of 2 pixels.
    assert why_not(DATA.train, 48_000) is None
    assert "more than" in why_not(DATA.train, 47_999)
    assert "stream" in why_not(TensorDataset(torch.zeros(1)))
    for option in ({"auto_augment": "rand-m5"}, {"erasing": 0.5}):
        assert "does not know" in why_not(open_data("digits", CONFIG, limit=40, **option).train)
