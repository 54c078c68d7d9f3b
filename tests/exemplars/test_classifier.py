"""What exemplars can be made from, and what is said of everything else."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from two_stages import CLASSES, make_network

from surgeon.data import ImageConfig
from surgeon.errors import ArchitectureError, DataError, DivergenceError
from surgeon.exemplars import SynthesisConfig, prepare, synthesize
from surgeon.exemplars.classifier import takes_size

SHAPE = (1, 8, 8)
FEW = SynthesisConfig(4, 3)


def convolved(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *layers)


def pooled(*layers: nn.Module) -> nn.Sequential:
    return convolved(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


class TwoHeads(nn.Module):
    """Averages two classifiers, as distilled transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = pooled(), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return (self.one(features) + self.two(features)) / 2


class Cosine(nn.Module):
    """A classifier with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, features: Tensor) -> Tensor:
        return 4 * nn.functional.linear(features, nn.functional.normalize(self.weight))


def declared(model: nn.Module, classes: int) -> nn.Module:
    model.num_classes = classes
    return model


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: pooled(nn.Linear(6, 3)),
    "dropout and softmax": lambda: pooled(nn.Dropout(), nn.Linear(6, 3), nn.LogSoftmax(1)),
    "convolution": lambda: pooled(nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 3, 1), nn.Flatten()),
    "squeezenet": lambda: convolved(nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "two heads": TwoHeads,
    "cosine": lambda: pooled(Cosine()),
    "weight norm": lambda: pooled(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
    "linear alone": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    # Its author says so.
    "declared": lambda: declared(convolved(nn.Conv2d(6, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str) -> None:
    model = CLASSIFIERS[name]().train()
    assert prepare(model, SHAPE, FEW).classes == 3
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


FEATURES: dict[str, Callable[[], nn.Module]] = {
    "pooled": lambda: pooled(nn.Identity()),
    "hidden layer": lambda: pooled(nn.Linear(6, 3), nn.ReLU(), nn.Dropout()),
    "normalized": lambda: pooled(nn.Linear(6, 3), nn.LayerNorm(3)),
    "normalized without weights": lambda: pooled(nn.Linear(6, 3), nn.BatchNorm1d(3, affine=False)),
    "3x3": lambda: convolved(nn.Conv2d(6, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "no weights": lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1)),
    "taken off by timm": lambda: timm.create_model("test_resnet", num_classes=0, in_chans=1),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_no_logits(name: str) -> None:
    with pytest.raises(ArchitectureError, match="no classifier") as caught:
        prepare(FEATURES[name](), SHAPE, FEW)
    assert "surgeon.apply" in caught.value.remedy
    assert "--data" not in caught.value.remedy


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "squeezenet1_1", "googlenet", "vit_b_32"])
def test_networks_of_torchvision(name: str) -> None:
    size = 224 if name.startswith("vit") else 64
    weights = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, num_classes=7, **weights)
    assert prepare(model, (3, size, size), SynthesisConfig(2)).classes == 7
    if hasattr(model, "fc"):
        model.fc = nn.Identity()
        with pytest.raises(ArchitectureError, match=r"no classifier: it returns \d+ features"):
            prepare(model, (3, size, size), SynthesisConfig(2))


class NoGradient(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach().mean((2, 3)).repeat(1, 3)


@pytest.mark.parametrize(
    ("model", "kind", "words", "remedy"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), DataError, "one output", "surgeon.apply"),
        (declared(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), 3), ArchitectureError, "3 classes", "classifier"),
        (nn.Conv2d(1, 3, 3), ArchitectureError, "one row of class logits", "classifier"),
        (
            nn.Sequential(nn.Flatten(0), nn.Linear(64, 6), nn.Unflatten(0, (2, 3))),
            ArchitectureError,
            "one row",
            "classifier",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 3)), DataError, "cannot take images of 1,8,8", "--exemplar-size"),
        (nn.Sequential(nn.Flatten(), nn.Embedding(4, 3)), DataError, "takes no images", "surgeon.apply"),
        (NoGradient(), DataError, "no gradient", "--data"),
    ],
)
def test_what_no_exemplars_can_be_made_from(model: nn.Module, kind: type, words: str, remedy: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        prepare(model, SHAPE, FEW)
    assert remedy in caught.value.remedy


def test_other_classes_than_the_networks() -> None:
    with pytest.raises(ArchitectureError, match="returns 3 values"):
        synthesize(make_network(), ImageConfig(SHAPE, (0.5,), (0.5,), "bilinear", 1.0), FEW, CLASSES + 1)


def test_an_answer_that_is_infinite() -> None:
    model = make_network()
    with torch.no_grad():
        model.head.bias[1] = math.inf
    with pytest.raises(DivergenceError, match="infinity"):
        prepare(model, SHAPE, FEW)


class Hungry(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_memory_that_runs_out_is_no_fault_of_the_size() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        prepare(Hungry(), SHAPE, FEW)
    with pytest.raises(torch.OutOfMemoryError):
        takes_size(Hungry(), SHAPE, "cpu")
