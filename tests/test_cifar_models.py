"""The papers' networks for 32x32 images: their printed sizes, their forms, and channels that surgeon can move."""

from pathlib import Path

import pytest
import torch
from timm.data import resolve_data_config
from torch import nn

import surgeon
from surgeon.checkpoint import build
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.edit.verify import prove

MODELS = Path(__file__).resolve().parents[1] / "models"
NAMES = (
    "cifar_plain.py:c3_32",
    "cifar_plain.py:c8_32",
    "cifar_plain.py:c13_32",
    "cifar_plain.py:c18_32",
    "cifar_vgg.py:vgg16",
    "cifar_vgg.py:vgg19",
    "cifar_vgg.py:vgg19_two_pools",
    "cifar_resnet.py:resnet20",
    "cifar_resnet.py:resnet182",
    "cifar_densenet.py:densenet40",
    "cifar_densenet.py:densenet100",
)


def _built(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(parse_architecture(f"{MODELS}/{name}")).eval()


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "thousands"),
    [
        ("cifar_plain.py:c3_32", 20),
        ("cifar_plain.py:c8_32", 66),
        ("cifar_plain.py:c13_32", 113),
        ("cifar_plain.py:c18_32", 159),
        ("cifar_resnet.py:resnet20", 269),
        ("cifar_resnet.py:resnet32", 464),
        ("cifar_resnet.py:resnet110", 1727),
        ("cifar_resnet.py:resnet182", 2894),
        # 1,015,232, which the table rounds up.
        ("cifar_densenet.py:densenet40", 1016),
        ("cifar_densenet.py:densenet100", 6968),
    ],
)
def test_sizes_are_those_of_table_4_of_repr(name: str, thousands: int) -> None:
    """The table counts without the last linear layer."""
    model = _built(name)
    linear = model.get_submodule("linear")
    assert (_parameters(model) - _parameters(linear)) / 1000 == pytest.approx(thousands, abs=0.8)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        # By hand: 864 + 2 x 9216 weights, three times 32 biases and 2 x 32 of BatchNorm.
        ("cifar_plain.py:c3_32", 19_584 + 32_768 * 10 + 10),
        # Every further layer has 9216 + 32 + 64.
        ("cifar_plain.py:c8_32", 19_584 + 5 * 9_312 + 32_768 * 10 + 10),
        # Weights of the five widths 1,728 + 36,864, 221,184, 2,064,384, 8,257,536 and 9,437,184; BatchNorm 2 x 5,504.
        ("cifar_vgg.py:vgg19", 20_018_880 + 11_008 + 5_130),
        ("cifar_vgg.py:vgg19_two_pools", 20_018_880 + 11_008 + 5_130),
    ],
)
def test_sizes_are_those_counted_by_hand(name: str, exact: int) -> None:
    assert _parameters(_built(name)) == exact


@pytest.mark.parametrize(("classes", "millions"), [(10, 20.04), (100, 20.08)])
def test_vgg19_has_the_size_of_table_4_of_neural_rejuvenation(classes: int, millions: float) -> None:
    model = build(parse_architecture(f"{MODELS}/cifar_vgg.py:vgg19_two_pools"))
    more = (classes - 10) * (512 + 1)
    assert round((_parameters(model) + more) / 1e6, 2) == millions


@pytest.mark.parametrize("name", NAMES)
def test_answers_have_a_row_an_image(name: str) -> None:
    with torch.no_grad():
        assert _built(name)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cifar_plain.py:c3_32", 32),
        ("cifar_vgg.py:vgg16", 16),
        ("cifar_vgg.py:vgg19_two_pools", 4),
        ("cifar_resnet.py:resnet20", 8),
        ("cifar_densenet.py:densenet40", 8),
    ],
)
def test_the_channels_of_every_convolution_move_with_proof(name: str, size: int) -> None:
    """One of each kind, as the others are built alike; all but the plain ones take the mean over images of any size."""
    model = _built(name)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    graph = surgeon.trace(model, images)
    moving = {member.tensor for group in graph.groups for member in group.members}
    convolutions = {key for key, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert {f"{key}.weight" for key in convolutions} <= moving
    assert prove(model, graph, images).holds


@pytest.mark.parametrize("name", [name for name in NAMES if "resnet" not in name])
def test_arguments_and_input_are_what_timm_and_surgeon_ask_for(name: str) -> None:
    architecture = parse_architecture(f"{MODELS}/{name}")
    architecture.arguments.update({"num_classes": 7, "in_chans": 1})
    model = build(architecture)
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (1, 32, 32)
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 1.0)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert model.num_classes == model.get_submodule(model.pretrained_cfg["classifier"]).out_features == 7
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == 1
    assert model.num_features == model.get_submodule("linear").in_features


@pytest.mark.parametrize(
    ("name", "depth"),
    [("cifar_vgg.py:vgg16", 14), ("cifar_vgg.py:vgg19", 17), ("cifar_densenet.py:densenet40", 40)],
)
def test_depth_counts_convolutions_and_linear_layers(name: str, depth: int) -> None:
    """VGG's names count three linear layers, of which one is left."""
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in _built(name).modules()) == depth


def test_dropout_stands_before_the_linear_layer() -> None:
    architecture = parse_architecture(f"{MODELS}/cifar_plain.py:c3_32")
    architecture.arguments["drop_rate"] = 0.5
    model = build(architecture).eval()
    model.get_submodule("dropout").train()
    seen: list[torch.Tensor] = []
    model.get_submodule("linear").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images)
        features = model.get_submodule("layers")(images).flatten(1)
    kept = seen[0] != 0
    assert torch.equal(seen[0][kept], 2 * features[kept])
    assert kept[features > 0].double().mean() == pytest.approx(0.5, abs=0.02)


def test_a_dense_layer_adds_its_channels_behind_the_input() -> None:
    layer = _built("cifar_densenet.py:densenet40").get_submodule("features.1")
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = layer(x)
    assert out.shape == (2, 28, 4, 4)
    assert torch.equal(out[:, :16], x)
