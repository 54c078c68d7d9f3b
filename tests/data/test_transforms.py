"""What becomes of an image on its way into the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from surgeon.data import ImageConfig
from surgeon.data.transforms import evaluation_transform, training_transform
from surgeon.errors import OptionError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def _config(height: int, width: int | None = None, crop_pct: float = 0.875) -> ImageConfig:
    return ImageConfig((3, height, width or height), MEAN, STD, "bicubic", crop_pct)


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _normalized(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (24, 32)])
def test_an_image_of_the_networks_size_is_only_normalized(crop_pct: float, size: tuple[int, int]) -> None:
    image = _noise(size[1], size[0])
    assert torch.allclose(evaluation_transform(_config(*size, crop_pct))(image), _normalized(image), atol=1e-6)


def test_a_larger_image_is_resized_and_cropped_as_timm_does() -> None:
    # A 96x64 image for a 28x28 network with crop 0.875: the short side to 32, then the middle 28x28.
    image = _noise(96, 64)
    wanted = image.resize((48, 32), Image.Resampling.BICUBIC).crop((10, 2, 38, 30))
    assert torch.allclose(evaluation_transform(_config(28))(image), _normalized(wanted), atol=1e-6)


def test_a_network_that_wants_whole_images_gets_them_squashed() -> None:
    image = _noise(96, 64)
    config = ImageConfig((3, 28, 28), MEAN, STD, "bicubic", 1.0, "squash")
    wanted = image.resize((28, 28), Image.Resampling.BICUBIC)
    assert torch.allclose(evaluation_transform(config)(image), _normalized(wanted), atol=1e-6)


def test_small_images_are_shifted_by_an_eighth_and_flipped() -> None:
    # One bright pixel in the middle shows the shift; its neighbour shows the flip.
    image = Image.new("RGB", (32, 32))
    image.putpixel((16, 16), (255, 255, 255))
    image.putpixel((17, 16), (255, 0, 0))
    transform = training_transform(_config(32), small=False, flip=True)
    torch.manual_seed(0)
    shifts, flips = set(), 0
    for _ in range(400):
        out = transform(image)
        ((row, column),) = (out[2] == out[2].max()).nonzero().tolist()
        neighbour = out[0][row, column + 1] > out[0][row, column - 1]
        flips += not neighbour
        shifts.add((row - 16, column - (16 if neighbour else 15)))
    assert {shift for shift, _ in shifts} == set(range(-4, 5))
    assert {shift for _, shift in shifts} == set(range(-4, 5))
    assert 140 < flips < 260


def test_images_that_must_not_be_flipped_are_not() -> None:
    image = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))).convert("RGB")
    transform = training_transform(_config(32), small=True, flip=False)
    torch.manual_seed(0)
    for _ in range(50):
        middle = transform(image)[0, 16, 4:-4]
        assert bool((middle.diff() >= -1e-6).all())


def test_large_images_are_augmented_as_timm_does() -> None:
    transform = training_transform(_config(128), small=False, flip=True)
    names = [type(step).__name__ for step in transform.transforms]
    assert names[0] == "RandomResizedCropAndInterpolation"
    assert "RandomHorizontalFlip" in names
    names = [type(step).__name__ for step in training_transform(_config(128), small=False, flip=False).transforms]
    assert "RandomHorizontalFlip" not in names


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "augmix-m3-w3", "3a", "original"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 72])
def test_every_policy_of_timm_varies_images_of_every_kind(policy: str, channels: int, side: int) -> None:
    config = ImageConfig((channels, side, side), MEAN[:channels], STD[:channels], "bicubic", 1.0)
    transform = training_transform(config, small=False, flip=True, auto_augment=policy, erasing=0.5)
    image = _noise(side, side).convert("L" if channels == 1 else "RGB")
    torch.manual_seed(0)
    made = [transform(image) for _ in range(8)]
    assert {tuple(out.shape) for out in made} == {(channels, side, side)}
    assert all(bool(out.isfinite().all()) for out in made)
    assert not torch.equal(made[0], made[1])


def test_erasing_replaces_a_rectangle_and_nothing_else() -> None:
    # Without the crop's padding and the flip, only the erased pixels differ.
    config = _config(6)
    image = _noise(6, 6)
    plain, erased = (training_transform(config, small=True, flip=False, erasing=share) for share in (0.0, 1.0))
    assert torch.equal(plain(image), _normalized(image))
    differ = (erased(image) != plain(image)).any(dim=0)
    rows, columns = (differ.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    assert 0 < len(rows) * len(columns) == int(differ.sum()) < 36
    assert rows == list(range(rows[0], rows[-1] + 1))
    assert columns == list(range(columns[0], columns[-1] + 1))


@pytest.mark.parametrize(("policy", "erasing"), [("rand-x9", 0.0), ("best", 0.0), (None, -0.1), (None, float("nan"))])
def test_what_timm_does_not_know_is_refused(policy: str | None, erasing: float) -> None:
    with pytest.raises(OptionError):
        training_transform(_config(32), small=False, flip=True, auto_augment=policy, erasing=erasing)


def test_small_pictures_for_large_networks_are_padded_too() -> None:
    transform = training_transform(_config(224), small=True, flip=False)
    assert transform(_noise(8, 8)).shape == (3, 224, 224)
