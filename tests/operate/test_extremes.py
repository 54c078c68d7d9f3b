"""Every method on networks and images at the ends of what there is: a sound result, or one sentence and a remedy."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import surgeon
from surgeon.coupling.graph import CouplingGraph
from surgeon.edit.plan import Plan, Set
from surgeon.errors import CheckpointError, DataError, DivergenceError, LayerError, OptionError, SurgeonError
from surgeon.measure.bn import recalibrate
from surgeon.methods import METHODS, make_config
from surgeon.operate import partner, phases, sparsifying
from surgeon.tuning import TuningConfig

SIZE = 4
LOUD = 1e20
LARGEST = torch.finfo(torch.float32).max


class Chain(nn.Module):
    """Two convolutions with BatchNorm and a classifier, of any widths."""

    def __init__(self, first: int, second: int, classes: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU())
        self.head = nn.Linear(second, classes)
        self.num_classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(images)).mean((2, 3)))


def network(first: int = 5, second: int = 7, classes: int = 3) -> Chain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Chain(first, second, classes).eval()
        for norm in norms(model):
            nn.init.uniform_(norm.weight, 0.2, 1.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def norms(model: Chain) -> list[Any]:
    return [model.one[1], model.two[1]]


def images(labels: list[int] | None = None, factor: float = 1.0, batch: int = 3) -> DataLoader[Any]:
    labels = [0, 1, 2, 0, 1, 2] if labels is None else labels
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(len(labels), 1, SIZE, SIZE, generator=generator) * factor
    return DataLoader(TensorDataset(pixels, torch.tensor(labels)), batch)


def every_weight(change: Callable[[torch.Tensor], Any]) -> Chain:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)
    return model


def every_norm(name: str, change: Callable[[torch.Tensor], Any]) -> Chain:
    model = network()
    with torch.no_grad():
        for norm in norms(model):
            change(getattr(norm, name))
    return model


Case = Callable[[], tuple[Chain, DataLoader[Any]]]

CASES: dict[str, Case] = {
    "one channel": lambda: (network(1, 1), images()),
    "two channels": lambda: (network(2, 2), images()),
    "three and an odd number of channels": lambda: (network(3, 13), images()),
    "all weights zero": lambda: (every_weight(nn.init.zeros_), images()),
    "all weights equal": lambda: (every_weight(lambda weight: weight.fill_(0.1)), images()),
    "all channels dead": lambda: (every_norm("weight", nn.init.zeros_), images()),
    "negative scales": lambda: (every_norm("weight", lambda scale: scale.neg_()), images()),
    "denormal weights": lambda: (every_weight(lambda weight: weight.mul_(1e-42)), images()),
    "a denormal scale": lambda: (every_norm("weight", lambda scale: scale[0].fill_(1e-44)), images()),
    "no variance": lambda: (every_norm("running_var", nn.init.zeros_), images()),
    "the largest variance": lambda: (every_norm("running_var", lambda value: value.fill_(LARGEST)), images()),
    "a class without images": lambda: (network(), images([0, 2] * 3)),
    "images of one class": lambda: (network(), images([1] * 6)),
    "a classifier of one class": lambda: (network(classes=1), images([0] * 6)),
    "black images": lambda: (network(), images(factor=0)),
    "denormal images": lambda: (network(), images(factor=1e-42)),
    "float16": lambda: (network().half(), in_type(torch.float16)),
    "bfloat16": lambda: (network().bfloat16(), in_type(torch.bfloat16)),
    "float64": lambda: (network().double(), in_type(torch.float64)),
}
"""What every method has to cope with."""

REFUSED: dict[str, tuple[Case, type[SurgeonError], str]] = {
    "NaN": (lambda: (every_weight(lambda w: w.view(-1)[0].fill_(nan)), images()), CheckpointError, "NaN or infinite"),
    "infinity": (
        lambda: (every_norm("running_mean", lambda v: v[0].fill_(inf)), images()), CheckpointError, "NaN or infinite",
    ),
    "a negative variance": (
        lambda: (every_norm("running_var", lambda v: v[0].fill_(-1e-9)), images()), CheckpointError, "below zero",
    ),
    "a label too many": (lambda: (network(), images([0, 1, 2, 3])), DataError, "no class of the network's"),
    "a negative label": (lambda: (network(), images([0, 1, -1, 2])), DataError, "no class of the network's"),
    "images too loud": (lambda: (network(), images(factor=LOUD)), SurgeonError, "finite"),
    "a single image": (lambda: (network(), images([0])), DataError, "--no-recalibrate"),
}  # fmt: skip
"""What no method can do anything with."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sofm": ("sofm", {}),
    "sofm, preserve": ("sofm", {"merge": "preserve", "ratio": 1.0}),
    "channel-regeneration": ("channel-regeneration", {"threshold": 0.5}),
    "channel-regeneration, preserve": ("channel-regeneration", {"threshold": 0.5, "preserve": True}),
    "kernel-reactivation": ("kernel-reactivation", {"alpha": 0.5, "beta": 0.5, "gamma": 0.5}),
    "weight-evolution": ("weight-evolution", {"alpha": 0.5, "beta": 0.5}),
    "filter-grafting": ("filter-grafting", {}),
    "reinit": ("reinit", {"ratio": 0.5}),
    "reinit by taylor": ("reinit", {"criterion": "taylor", "ratio": 0.5}),
}

NOTHING_TO_EDIT = {
    "one channel": {
        "channel-regeneration, preserve",
        *(name for name in VARIANTS if name.startswith(("kernel", "weight", "reinit"))),
    },
    "two channels": {"channel-regeneration", "channel-regeneration, preserve"},
    "all weights zero": {"channel-regeneration, preserve", "kernel-reactivation", "weight-evolution"},
    "all channels dead": {"channel-regeneration, preserve"},
}
"""Where a method finds nothing that it could do, and says so."""


def in_type(dtype: torch.dtype) -> DataLoader[Any]:
    pixels, labels = zip(*images(), strict=True)
    return DataLoader(TensorDataset(torch.cat(pixels).to(dtype), torch.cat(labels)), 3)


@cache
def graph_of(first: int, second: int, classes: int) -> CouplingGraph:
    return surgeon.trace(network(first, second, classes), torch.zeros(2, 1, SIZE, SIZE))


def operated(variant: str, model: Chain, loader: DataLoader[Any], **others: Any) -> Any:
    method, options = VARIANTS.get(variant, (variant, {}))
    if METHODS[method].needs_partner:
        others["partner"] = copy.deepcopy(model)
    widths = model.one[1].num_features, model.two[1].num_features, model.num_classes
    return surgeon.apply(
        model,
        method,
        ["two"] if METHODS[method].scope == "target" else [],
        calibration=loader,
        graph=graph_of(*widths),
        **{"epochs": 0, "val": loader, **options, **others},
    )


def check(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = model.state_dict()
    assert {key: (value.dtype, value.shape) for key, value in after.items()} == {
        key: (value.dtype, value.shape) for key, value in before.items()
    }
    assert [key for key, value in after.items() if not value.isfinite().all()] == []
    assert [key for key, value in after.items() if key.endswith("running_var") and (value < 0).any()] == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_leaves_a_sound_network(variant: str, case: str) -> None:
    model, loader = CASES[case]()
    before = copy.deepcopy(model.state_dict())
    if case == "one channel" and variant.startswith("sofm"):
        # One channel can change places with none.
        with pytest.raises(LayerError, match="frozen"):
            operated(variant, model, loader)
        return
    record = operated(variant, model, loader)
    check(model, before)
    assert bool(record.edits) == (variant not in NOTHING_TO_EDIT.get(case, ()))
    assert "NaN" not in record.to_json()


@pytest.mark.parametrize("case", REFUSED)
def test_what_nobody_can_use_is_refused_in_a_sentence(case: str) -> None:
    make, kind, words = REFUSED[case]
    model, loader = make()
    with pytest.raises(kind, match=words) as caught:
        operated("weight-evolution", model, loader)
    assert caught.value.remedy


def test_refused_images_leave_the_statistics_as_they_were() -> None:
    model, loader = network(), images(factor=LOUD)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    with pytest.raises(DivergenceError, match=r"no finite numbers, in 'one\.1\.running_var' first"):
        recalibrate(model, loader, device="cpu")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_values_that_an_operation_makes_too_large_are_refused() -> None:
    model = network()
    plan = Plan("sofm", {}, (), (Set("two.1.weight", torch.tensor([0]), torch.tensor([inf]), "too large"),), {}, ())
    with pytest.raises(DivergenceError, match=r"values of two\.1\.weight became too large"):
        surgeon.apply(model, plan=plan, epochs=0, graph=graph_of(5, 7, 3))


def test_variances_that_an_operation_makes_negative_are_refused() -> None:
    model = network()
    edit = Set("two.1.running_var", torch.tensor([0]), torch.tensor([-1e-30]), "below zero")
    with pytest.raises(DivergenceError, match=r"variances in two\.1\.running_var fell below zero"):
        surgeon.apply(model, plan=Plan("sofm", {}, (), (edit,), {}, ()), epochs=0, graph=graph_of(5, 7, 3))


def spoiling(monkeypatch: pytest.MonkeyPatch, room: Any, name: str) -> None:
    """Let what carries plans out there spoil the network besides."""
    carried_out = getattr(room, name)

    def spoil(given: Any, *arguments: Any, **options: Any) -> Any:
        done = carried_out(given, *arguments, **options)
        model = given if isinstance(given, nn.Module) else given.model
        model.get_submodule("two.1").running_var[0] = -1e-3
        return done

    monkeypatch.setattr(room, name, spoil)


@pytest.mark.parametrize(
    ("method", "room", "name", "options"),
    [
        ("repr", phases, "execute", {"s1": 1, "s2": 1, "n": 1, "ratio": 0.5}),
        ("dsd", phases, "execute", {"s1": 1, "s2": 1, "n": 1}),
        ("neural-rejuvenation", sparsifying, "carried_out", {"sparsify": 1}),
        ("filter-grafting on the partner", partner, "execute", {"every": 1}),
    ],
)
def test_what_an_operation_spoils_during_fine_tuning_is_laid_to_the_operation(
    monkeypatch: pytest.MonkeyPatch, method: str, room: Any, name: str, options: dict[str, Any]
) -> None:
    spoiling(monkeypatch, room, name)
    model, loader = network(), images()
    with torch.no_grad():
        # A dead channel, for the methods that revive some.
        model.two[1].weight[1] = 0
    with pytest.raises(DivergenceError, match=rf"By {method}, variances in two\.1\.running_var fell below zero"):
        operated(method.partition(" ")[0], model, loader, train=loader, epochs=3, val=None, **options)


@pytest.mark.parametrize("method", ["dsd", "repr"])
@pytest.mark.parametrize("width", [3, 1])
def test_methods_that_work_during_fine_tuning_leave_a_sound_network(method: str, width: int) -> None:
    model = network(width, width)
    with torch.no_grad():
        model.two[0].weight.zero_()
    before = copy.deepcopy(model.state_dict())
    loader = images()
    refused = (method, width) == ("repr", 1)
    with pytest.raises(SurgeonError) if refused else nullcontext():
        operated(method, model, loader, train=loader, epochs=3, s1=1, s2=1, n=1, ratio=0.5, val=None)
    check(model, before)


def test_fine_tuning_ends_where_a_running_statistic_is_no_number_any_more() -> None:
    loader = images(factor=LOUD)
    with pytest.raises(DivergenceError, match="running statistic became NaN or infinite"):
        surgeon.finetune(network(), loader, epochs=1, tuning=TuningConfig(lr=1e-30))


def test_fine_tuning_ends_where_a_running_variance_has_fallen_below_zero() -> None:
    model = network()
    # Twice the new one less the old one.
    model.one[1].momentum = 2.0
    with pytest.raises(DivergenceError, match=r"A running variance fell below zero after 1 updates\.") as caught:
        surgeon.finetune(model, images(factor=1e-3, batch=6), compared=False, epochs=1, tuning=TuningConfig(lr=1e-30))
    assert "momentum" in caught.value.remedy


@pytest.mark.parametrize("label", [3, -1])
def test_fine_tuning_refuses_labels_that_are_no_class(label: int) -> None:
    with pytest.raises(DataError, match="a label of an image is none of them"):
        surgeon.finetune(network(), images([0, label]), compared=False, epochs=1)


def test_a_batch_of_one_image_that_batchnorm_cannot_learn_from_is_refused() -> None:
    single = DataLoader(TensorDataset(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])), 1)
    with pytest.raises(DataError, match="A batch of a single image cannot be learnt from"):
        surgeon.finetune(network(), single, compared=False, epochs=1)


@pytest.mark.parametrize("value", [nan, inf, -inf, -1, -5e-324, "nan", "inf", "1e400", "", "\0", "9" * 5000])
def test_options_at_the_ends_of_numbers_are_refused(value: Any) -> None:
    for method in METHODS.values():
        for option in method.options:
            if option.type not in (bool, str) and "Literal" not in str(option.type):
                with pytest.raises(OptionError):
                    make_config(method, {option.name: value})


def test_a_histogram_of_more_bins_than_memory_is_refused() -> None:
    with pytest.raises(OptionError, match="at most 65536"):
        make_config(METHODS["filter-grafting"], {"bins": 10**12})


def test_a_whole_number_beyond_all_others_is_no_share() -> None:
    with pytest.raises(OptionError, match="Give a number"):
        make_config(METHODS["reinit"], {"ratio": 10**400})


@pytest.mark.parametrize("share", [5e-324, 1e-12, 1 - 2**-53])
@pytest.mark.parametrize("variant", ["sofm", "reinit", "kernel-reactivation", "weight-evolution"])
def test_shares_next_to_nothing_and_next_to_everything(variant: str, share: float) -> None:
    names = {"sofm": ["ratio"], "reinit": ["max_per_layer"]}.get(variant, ["alpha", "beta"])
    model, loader = network(), images()
    before = copy.deepcopy(model.state_dict())
    others = {"ratio": 0.3} if variant == "reinit" else {}
    with pytest.raises(OptionError) if variant == "reinit" and share < 0.5 else nullcontext():
        operated(variant, model, loader, **others, **dict.fromkeys(names, share))
    check(model, before)
