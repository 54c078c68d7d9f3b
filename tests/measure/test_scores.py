"""Scores on images: a network worked by hand, and the criteria written out with plain loops and autograd."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from surgeon.coupling import trace
from surgeon.errors import ArchitectureError, DataError, OptionError
from surgeon.measure.scores import filter_scores

DATA_DRIVEN = ("activation", "apoz", "taylor", "oracle")


class ByHand(nn.Module):
    """Two filters of one weight each, doubled and shifted; the means after a ReLU are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2, eps=0)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.norm.weight.copy_(torch.tensor([2.0, 1.0]))
            self.norm.bias.copy_(torch.tensor([0.0, 2.0]))
            self.head.weight.copy_(torch.eye(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.conv(images)), inplace=True).mean((2, 3)))


IMAGES = torch.tensor([[1.0, -1.0], [2.0, 0.0], [1.0, 1.0]]).reshape(3, 1, 1, 2)
LABELS = torch.tensor([1, 0, 0])
"""Behind the norm, filter 0 gives (2, -2), (4, 0), (2, 2) and filter 1 gives (1, 3), (0, 2), (1, 1): the logits are
(1, 2), (2, 1), (2, 1), all right."""


class Deep(nn.Module):
    """Norms of both kinds, in-place operations on their outputs, a layer without norm, and one of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1, bias=False)
        self.stem_norm = BatchNormAct2d(5, act_layer=nn.SiLU)
        self.inner = nn.Conv2d(5, 5, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(5)
        self.bare = nn.Conv2d(5, 4, 2)
        self.tokens = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        stream = self.stem_norm(self.stem(images))
        inner = self.inner_norm(self.inner(stream))
        inner += stream
        bare = functional.relu_(self.bare(functional.hardswish(inner, inplace=True)))
        return self.head(functional.gelu(self.tokens(bare.flatten(2).transpose(1, 2))).mean(1))


@pytest.fixture
def deep() -> Deep:
    torch.manual_seed(0)
    model = Deep().train()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.3)
            elif tensor.dim() > 1:
                tensor.mul_(3)
    return model


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 2, 5, 5, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in (14, 9)
    ]


def scores_of(model: nn.Module, criterion: str, batches: Iterable[Any], **options: Any) -> dict[str, Tensor]:
    images = next(iter(batches))[0] if isinstance(batches, list) and batches else IMAGES
    layers = trace(copy.deepcopy(model).eval(), images[:2]).layers
    return filter_scores(model, layers, criterion, batches, device="cpu", **options)


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        ("activation", [2, 4 / 3]),
        ("apoz", [1 / 3, 1 / 6]),
        ("oracle", [2 / 3, 1 / 3]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_scores_by_hand_whatever_the_batches(criterion: str, expected: list[float], size: int) -> None:
    batches = list(zip(IMAGES.split(size), LABELS.split(size), strict=True))
    found = filter_scores(ByHand(), trace(ByHand().eval(), IMAGES).layers, criterion, batches, device="cpu")["conv"]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected)


def test_taylor_by_hand() -> None:
    # With d_k = p_k - [k is the label], filter k's logit has gradient d_k, each of its two positions half of it where
    # it is positive; |a · g| averaged over the positions is then |d_k| · relu(a).sum() / 4.
    lean = 1 / (1 + torch.e)
    first = [lean * 2 / 4, lean * 4 / 4, lean * 4 / 4]
    second = [lean * 4 / 4, lean * 2 / 4, lean * 2 / 4]
    scores = torch.tensor([sum(first), sum(second)])
    batches = [(IMAGES, LABELS)]
    found = filter_scores(ByHand(), trace(ByHand().eval(), IMAGES).layers, "taylor", batches, device="cpu")["conv"]
    assert found.tolist() == pytest.approx((scores / scores.norm()).tolist())


def pieces(model: Deep, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs that count, computed step by step without in-place operations, and the logits."""
    stem = functional.batch_norm(
        model.stem(images),
        model.stem_norm.running_mean,
        model.stem_norm.running_var,
        model.stem_norm.weight,
        model.stem_norm.bias,
    )
    stream = functional.silu(stem)
    inner = model.inner_norm(model.inner(stream))
    bare = model.bare(functional.hardswish(inner + stream))
    tokens = model.tokens(bare.relu().flatten(2).transpose(1, 2))
    head = model.head(functional.gelu(tokens).mean(1))
    return {"stem": stem, "inner": inner, "bare": bare, "tokens": tokens, "head": head}


def by_filter(name: str, tensor: Tensor) -> Tensor:
    """Return `[images, filters, positions]`."""
    return tensor.transpose(1, 2) if name == "tokens" else tensor.reshape(*tensor.shape[:2], -1)


def test_taylor_is_autograd_written_out(deep: Deep, batches: list[tuple[Tensor, Tensor]]) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model = copy.deepcopy(deep).eval()
    found = scores_of(deep, "taylor", batches)
    outputs = pieces(model, images)
    torch.testing.assert_close(outputs["head"], model(images))
    loss = functional.cross_entropy(outputs["head"], labels, reduction="sum")
    assert set(found) == set(outputs)
    for name, output in outputs.items():
        (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
        product = by_filter(name, (output * gradient).detach())
        score = torch.tensor(
            [
                sum(abs(float(product[image, filter_].mean())) for image in range(len(images))) / len(images)
                for filter_ in range(product.shape[1])
            ]
        )
        torch.testing.assert_close(found[name], score / score.norm(), rtol=1e-4, atol=1e-6)


def test_outputs_are_read_before_activation_functions(deep: Deep, batches: list[tuple[Tensor, Tensor]]) -> None:
    images = torch.cat([batch[0] for batch in batches])
    means, zeros = scores_of(deep, "activation", batches), scores_of(deep, "apoz", batches)
    with torch.no_grad():
        outputs = pieces(copy.deepcopy(deep).eval(), images)
    for name, output in outputs.items():
        flat = by_filter(name, output)
        torch.testing.assert_close(means[name], flat.abs().mean((0, 2)))
        torch.testing.assert_close(zeros[name], (flat <= 0).float().mean((0, 2)))


def zeroed(model: Deep, name: str, filter_: int) -> Deep:
    result = copy.deepcopy(model)
    norm = {"stem": result.stem_norm, "inner": result.inner_norm}.get(name)
    with torch.no_grad():
        for module in (result.get_submodule(name), norm):
            for parameter in () if module is None else module.parameters(recurse=False):
                parameter[filter_] = 0
    return result


def test_oracle_is_the_network_with_zeroed_tensors(deep: Deep, batches: list[tuple[Tensor, Tensor]]) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    found = scores_of(deep, "oracle", batches)
    model = copy.deepcopy(deep).eval()

    def right(network: nn.Module) -> int:
        return int((network(images).argmax(1) == labels).sum())

    assert set(found) == {"stem", "inner", "bare", "tokens", "head"}
    drops = []
    for name, scores in found.items():
        for filter_, score in enumerate(scores.tolist()):
            drop = right(model) - right(zeroed(model, name, filter_))
            assert score == pytest.approx(drop / len(images)), (name, filter_)
            drops.append(drop)
    assert len(set(drops)) > 3


def test_oracle_says_how_long_it_will_take_and_shows_progress(batches: list[tuple[Tensor, Tensor]]) -> None:
    said: list[str] = []
    tracked: list[tuple[str, int | None, int]] = []

    def track(items: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:
        seen = 0
        assert description == "measuring" or said, "the estimate comes first"
        for item in items:
            yield item
            seen += len(item[0])
        tracked.append((description, total, seen))

    model = ByHand()
    layers = trace(model.eval(), IMAGES).layers
    filter_scores(model, layers, "oracle", [(IMAGES, LABELS)], device="cpu", track=track, say=said.append)
    # Two filters of the convolution and two of the classifier, three images each.
    assert tracked == [("measuring", None, 3), ("oracle", 12, 12)]
    assert len(said) == 1
    assert "3 images for each of 4 filters: about 0 s." in said[0]


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_as_it_was(
    deep: Deep, batches: list[tuple[Tensor, Tensor]], criterion: str, frozen: bool
) -> None:
    deep.inner.eval()
    deep.stem.weight.requires_grad_(not frozen)
    deep.bare.weight.grad = torch.ones_like(deep.bare.weight)
    before = copy.deepcopy(deep.state_dict())
    modes = [module.training for module in deep.modules()]
    scores_of(deep, criterion, batches)
    assert [module.training for module in deep.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in deep.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in deep.modules())
    grads = {name for name, parameter in deep.named_parameters() if parameter.grad is not None}
    assert grads == {"bare.weight"}
    assert deep.bare.weight.grad.eq(1).all()
    assert deep.stem.weight.requires_grad is not frozen


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_hooks_go_even_if_a_pass_fails(criterion: str) -> None:
    model = ByHand().train()
    layers = trace(ByHand().eval(), IMAGES).layers
    wrong = [(IMAGES.expand(3, 2, 1, 2), LABELS)]
    with pytest.raises(RuntimeError):
        filter_scores(model, layers, criterion, wrong, device="cpu")
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def failing(model: nn.Module, criterion: str, batches: Any) -> Callable[[], object]:
    layers = trace(ByHand().eval(), IMAGES).layers
    return lambda: filter_scores(model, layers, criterion, batches, device="cpu")


@pytest.mark.parametrize("criterion", DATA_DRIVEN)
def test_no_images(criterion: str) -> None:
    with pytest.raises(DataError, match="no image"):
        failing(ByHand(), criterion, [])()


@pytest.mark.parametrize("criterion", ["taylor", "oracle"])
def test_labels_out_of_range(criterion: str) -> None:
    with pytest.raises(DataError, match="label 2 is out of range for 2 classes"):
        failing(ByHand(), criterion, [(IMAGES, LABELS + 1)])()


class Counted:
    """Batches that tell how often they were read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.reads += 1
        yield from zip(IMAGES.split(2), LABELS.split(2), strict=True)


@pytest.mark.parametrize(("budget", "reads"), [(2**31, 1), (2 * 2 * 4 + 2 * 8 + 1 * 2 * 4 + 8, 1), (47, 5), (0, 5)])
def test_the_oracle_reads_images_once_if_they_fit(budget: int, reads: int) -> None:
    batches, layers = Counted(), trace(ByHand().eval(), IMAGES).layers
    found = filter_scores(ByHand(), layers, "oracle", batches, device="cpu", budget_bytes=budget)
    assert found["conv"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert batches.reads == reads


def test_the_oracle_reads_an_iterator_only_if_it_fits() -> None:
    model, layers = ByHand(), trace(ByHand().eval(), IMAGES).layers
    found = filter_scores(model, layers, "oracle", iter(Counted()), device="cpu")
    assert found["conv"].tolist() == pytest.approx([2 / 3, 1 / 3])
    with pytest.raises(DataError, match="once for every filter"):
        filter_scores(model, layers, "oracle", iter(Counted()), device="cpu", budget_bytes=0)


def test_a_criterion_of_weights_is_refused() -> None:
    with pytest.raises(OptionError, match="'l1' is not measured on images"):
        failing(ByHand(), "l1", [(IMAGES, LABELS)])()


def test_a_network_without_classifier_is_refused() -> None:
    model = ByHand()
    layers = trace(model.eval(), IMAGES).layers
    headless = nn.ModuleDict({"conv": model.conv, "norm": model.norm, "head": model.head})
    headless.forward = lambda images: model.norm(model.conv(images))
    with pytest.raises(ArchitectureError, match="not one row of class logits"):
        filter_scores(headless, layers, "oracle", [(IMAGES, LABELS)], device="cpu")
