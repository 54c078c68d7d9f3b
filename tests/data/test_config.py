"""What the images of a network look like: size, normalization, interpolation and crop."""

from typing import Any

import pytest
import timm
import torchvision
from torch import nn

from surgeon.checkpoint import Architecture, build
from surgeon.data import ImageConfig, image_config, image_size
from surgeon.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_a_timm_network_says_it_itself() -> None:
    assert image_config(timm.create_model("test_efficientnet")) == ImageConfig(
        (3, 160, 160), IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.95
    )


def test_a_tag_says_it_too() -> None:
    assert image_config(timm.create_model("resnet18.tv_in1k")).interpolation == "bilinear"
    assert image_config(timm.create_model("resnet18.a1_in1k")).interpolation == "bicubic"


def test_a_network_that_wants_whole_images_says_so() -> None:
    model = nn.Identity()
    model.pretrained_cfg = {"crop_mode": "squash", "crop_pct": 1.0}
    assert image_config(model).crop_mode == "squash"


def test_a_torchvision_network_says_it_by_its_published_weights() -> None:
    model = build(Architecture("torchvision", "mobilenet_v3_small"))
    assert image_config(model) == ImageConfig((3, 224, 224), IMAGENET_MEAN, IMAGENET_STD, "bilinear", 224 / 256)
    model = nn.Identity()
    model.surgeon_architecture = Architecture("torchvision", "inception_v3")
    assert image_config(model) == ImageConfig((3, 299, 299), IMAGENET_MEAN, IMAGENET_STD, "bilinear", 299 / 342)


def test_a_network_without_a_word_gets_timms_defaults() -> None:
    for model in (nn.Identity(), torchvision.models.resnet18()):
        assert image_config(model) == ImageConfig((3, 224, 224), IMAGENET_MEAN, IMAGENET_STD, "bicubic", 0.875)


def test_overrides() -> None:
    config = image_config(
        timm.create_model("test_resnet"),
        input_size=(3, 32, 48),
        mean=(0.5, 0.4, 0.3),
        std=(0.2,),
        interpolation="nearest",
        crop_pct=1.0,
    )
    assert config == ImageConfig((3, 32, 48), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "nearest", 1.0)


def test_networks_of_one_channel_take_the_mean_of_the_normalization() -> None:
    config = image_config(build(Architecture("timm", "resnet18", {"in_chans": 1})))
    assert config.input_size[0] == 1
    assert config.mean == pytest.approx((0.449,))
    assert config.std == pytest.approx((0.226,))


@pytest.mark.parametrize(
    "override",
    [
        {"input_size": (3, 0, 32)},
        {"input_size": (3, 32)},
        {"input_size": (2, 32, 32)},
        {"mean": (0.5, 0.5)},
        {"std": (0.5, 0.5, 0.0)},
        {"interpolation": "sharp"},
        {"crop_pct": 0.0},
        {"crop_pct": 2.5},
    ],
)
def test_values_out_of_range(override: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        image_config(timm.create_model("test_resnet"), **override)
    assert next(iter(override)) in caught.value.problem


def test_the_first_convolution_tells_gray_from_colour() -> None:
    for channels in (1, 3):
        model = nn.Sequential(nn.Conv2d(channels, 4, 3))
        assert image_config(model).input_size == image_size(model) == (channels, 224, 224)
    # A convolution over patches or other features tells nothing.
    assert image_size(nn.Sequential(nn.Conv2d(48, 4, 3))) == (3, 224, 224)


def test_sizes_of_networks_that_take_no_pictures() -> None:
    model = build(Architecture("timm", "test_resnet", {"in_chans": 4}))
    assert image_size(model)[0] == 4
    assert image_size(model, (4, 32, 48)) == (4, 32, 48)
    with pytest.raises(DataError, match="4, 160"):
        image_config(model)


@pytest.mark.parametrize("size", [(3, 32), (3, 32, 0), (3, 32, 32, 32)])
def test_sizes_that_are_none(size: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="not that of an image"):
        image_size(nn.Identity(), size)
