"""Factors that move from writers to readers: random ones must leave the outputs of whole networks alone."""

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

import surgeon
from surgeon.coupling.graph import CouplingGraph, Scaling
from surgeon.edit.plan import Plan, Rescale
from surgeon.edit.verify import randomize

TOLERANCE = 1e-11


def rescaled_difference(model: nn.Module, graph: CouplingGraph, images: torch.Tensor) -> float:
    """Give the relative change of a randomized float64 network's outputs under random factors between 0.2 and 4."""
    model = model.double().eval()
    randomize(model, torch.Generator().manual_seed(0))
    images = images.double()
    with torch.no_grad():
        before = model(images)
        generator = torch.Generator().manual_seed(2)
        factors = 0.2 + 3.8 * torch.rand(graph.scaling.size, dtype=torch.float64, generator=generator)
        surgeon.execute(model, Plan("test", {}, (), (Rescale(graph.scaling, factors),)))
        after = model(images)
    return float((before - after).norm() / before.norm())


def written(scaling: Scaling, tensor: str) -> int:
    """Count the positions of a tensor that take a factor up."""
    return sum(int((part.scale >= 0).sum()) for part in scaling.parts if part.tensor == tensor and not part.divided)


class Block(nn.Module):
    """Pointwise, depthwise, pointwise, with a BatchNorm behind each and one function between."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], kernel: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.depthwise, self.norm2 = kernel or nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 4, 1)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.norm1(self.first(x)))
        return self.last(self.between(self.norm2(self.depthwise(x)))).mean((2, 3))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_depthwise_kernel_with_a_multiplier_has_a_factor_on_either_side() -> None:
    model = Block(functional.relu)
    graph = surgeon.trace(model, IMAGES)
    assert graph.scaling.size == 6 + 12
    (kernel,) = (part for part in graph.scaling.parts if part.tensor == "depthwise.weight")
    (scale,) = (part for part in graph.scaling.parts if part.tensor == "norm1.weight")
    assert kernel.divided
    assert torch.equal(kernel.scale, scale.scale.repeat_interleave(2))
    assert rescaled_difference(model, graph, IMAGES) < TOLERANCE


@pytest.mark.parametrize("between", [functional.relu6, functional.silu, torch.sigmoid, lambda x: x + 1, torch.square])
def test_what_is_not_homogeneous_takes_the_factors_away_and_says_so(
    between: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    scaling = surgeon.trace(Block(between), IMAGES).scaling
    assert scaling.size == 0
    ((reason, count),) = scaling.reasons["norm1.weight"].items()
    assert "not positively homogeneous" in reason
    assert count == 6


def test_a_transposed_depthwise_kernel_with_a_multiplier_is_left_alone() -> None:
    model = Block(functional.relu, nn.ConvTranspose2d(6, 12, 3, groups=6))
    graph = surgeon.trace(model, IMAGES)
    assert rescaled_difference(model, graph, IMAGES) < TOLERANCE
    assert written(graph.scaling, "norm2.weight") == 12


class Tied(nn.Module):
    """A weight that writes channels and, transposed, reads them; and a slope that may not take a factor up."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.slope, self.norm = nn.Linear(3, 5), nn.PReLU(5), nn.BatchNorm1d(5)
        self.own = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encode(x.mean((2, 3)))
        return self.own(self.slope(self.norm(x))) @ torch.ones(2, 1) + functional.linear(x, self.encode.weight.T).sum()


def test_tied_weights_and_slopes_take_nothing_up() -> None:
    scaling = surgeon.trace(Tied(), IMAGES).scaling
    assert written(scaling, "encode.weight") == 0
    assert written(scaling, "slope.weight") == 0


MODELS = [
    "resnet18", "mobilenetv1_100", "mobilenetv2_050", "densenet121", "efficientnet_b0", "regnety_002", "res2net50d",
    "resnext50_32x4d", "ese_vovnet19b_dw", "repvgg_a0", "hrnet_w18_small", "skresnet18", "dla34", "ghostnet_050",
    "nf_resnet50", "convnext_atto", "vit_tiny_patch16_224", "levit_128s", "cspresnet50", "selecsls42b", "xception41",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_random_factors_leave_timm_networks_alone(name: str) -> None:
    model = timm.create_model(name).eval()
    size = 224 if name.startswith(("vit", "levit")) else 64
    graph = surgeon.trace(model)
    assert rescaled_difference(model, graph, torch.randn(2, 3, size, size)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "size"), [("googlenet", 96), ("inception_v3", 128), ("shufflenet_v2_x0_5", 64), ("vgg11_bn", 64)]
)
def test_random_factors_leave_torchvision_networks_alone(name: str, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None).eval()
    graph = surgeon.trace(model)
    norms = [norm for norm in graph.norms.values() if norm.weight is not None]
    tensors = model.state_dict()
    # Every scale of these networks can take a factor up: relu, pooling, concatenation, shuffles are homogeneous.
    assert all(written(graph.scaling, norm.weight or "") == tensors[norm.weight or ""].numel() for norm in norms)
    assert rescaled_difference(model, graph, torch.randn(2, 3, size, size)) < TOLERANCE


def test_training_heads_are_divided_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model("googlenet", weights=None)
    graph = surgeon.trace(model)
    divided = {part.tensor for part in graph.scaling.parts if part.divided}
    assert {"aux1.conv.conv.weight", "aux2.conv.conv.weight"} <= divided
