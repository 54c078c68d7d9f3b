"""Entries that are held at zero: no optimizer moves them, and the others learn as if they were not there."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pieces import images, network, same_bits, shuffled
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from surgeon.tuning import Held, Metrics, Saving, State, TuningConfig, clear_moments, make_accelerator, tune

Hook = Callable[[int, Optimizer], dict[str, Any] | None]


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Filter 1 of the first convolution with its BatchNorm, and every second weight of the last layer."""
    found = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in model.named_parameters()}
    for name in ("0.weight", "1.weight", "1.bias"):
        found[name][1] = True
    found["8.weight"].view(-1)[::2] = True
    return found


def hold(model: nn.Module, held: Held, optimizer: Optimizer) -> None:
    wanted = masks(model)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.masked_fill_(wanted[name], 0)
            clear_moments(optimizer, tensor, wanted[name])
    held.hold(wanted)
    held.phase = "sub-network"


def holding(model: nn.Module, held: Held, first: int = 1, last: int = 3) -> Hook:
    """Hold from the beginning of one epoch to that of another."""
    held.phase = "full network"

    def hook(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
        if epoch == first:
            hold(model, held, optimizer)
        elif epoch == last:
            held.release()
            held.phase = "full network"
        else:
            return None
        return {"phase": held.phase}

    return hook


def train(model: nn.Module, accelerator: Any, config: TuningConfig, held: Held, hook: Hook | None, **more: Any) -> Any:
    return tune(
        model, shuffled(images()), DataLoader(images(), 8), config,
        accelerator=accelerator, held=held, between_epochs=hook, **more,
    )  # fmt: skip


OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.1},
    "momentum": {"clip_grad": 0.01, "accumulate": 2},
    "adamw": {"weight_decay": 0.1, "model_ema": True, "model_ema_decay": 0.5},
    "lamb": {"weight_decay": 0.1, "smoothing": 0.1},
    "lookahead_adam": {},
    "adafactor": {},
    "muon": {},
    "madgrad": {},
    "adahessian": {},
    "lookahead_sgd": {"channels_last": "yes", "model_ema": True},
    "adan": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_optimizer_moves_what_is_held_by_a_single_bit(accelerator, name: str) -> None:
    model, held, seen = network(), Held(), []

    def write(state: State) -> None:
        if not held.masks:
            return
        parts = [state["model"], *([state["ema"]["model"]] if state["ema"] else [])]
        seen.extend({key: part[key][mask] for key, mask in held.masks.items()} for part in parts)

    before: list[dict[str, Tensor]] = []

    def on_epoch(record: Any) -> None:
        before.append(copy.deepcopy(model.state_dict()))

    config = TuningConfig(epochs=4, opt=name, lr=0.05, sched="none", **OPTIONS[name])
    tuned = train(
        model, accelerator, config, held, holding(model, held), saving=Saving(write, every=1), on_epoch=on_epoch
    )  # fmt: skip
    # After every update of two epochs, and after each of them.
    assert len(seen) >= 2 * (3 if config.accumulate == 1 else 2)
    assert all(set(state) == {"0.weight", "1.weight", "1.bias", "8.weight"} for state in seen)
    assert all(not tensor.any() for state in seen for tensor in state.values())
    # The others learnt meanwhile, and all of them learn again afterwards.
    kept = ~masks(model)["0.weight"]
    assert (before[0]["0.weight"] != before[1]["0.weight"])[kept].all()
    assert model.state_dict()["8.weight"].all()
    phases = ["full network", "sub-network", "sub-network", "full network"]
    assert [record.phase for record in tuned.epochs] == phases


def narrow(model: nn.Sequential) -> nn.Sequential:
    """The same network without filter 1 of its first convolution."""
    rest = torch.tensor([0, 2, 3])
    found = copy.deepcopy(model)
    found[0], found[1] = nn.Conv2d(1, 3, 3, bias=False).double(), nn.BatchNorm2d(3).double()
    found[3] = nn.Conv2d(3, 4, 3).double()
    with torch.no_grad():
        found[0].weight.copy_(model[0].weight[rest])
        for key, tensor in found[1].state_dict().items():
            if tensor.dim():
                tensor.copy_(model[1].state_dict()[key][rest])
        found[3].weight.copy_(model[3].weight[:, rest])
        found[3].bias.copy_(model[3].bias)
    return found


@pytest.mark.parametrize(
    "options", [{"opt": "sgd", "clip_grad": 0.5}, {"opt": "momentum", "weight_decay": 0.1, "accumulate": 2}]
)
def test_the_rest_learns_what_a_network_without_it_learns(accelerator, options: dict[str, Any]) -> None:
    data = TensorDataset(images().tensors[0].double(), images().tensors[1])
    full, held = network().double(), Held()
    small = narrow(full)
    filters = {name: mask for name, mask in masks(full).items() if not name.startswith("8")}
    with torch.no_grad():
        for name, tensor in full.named_parameters():
            if name in filters:
                tensor.masked_fill_(filters[name], 0)
    held.hold(filters)
    config = TuningConfig(epochs=2, lr=0.05, **options)
    for model, holds in ((full, held), (small, Held())):
        tune(model, shuffled(data), DataLoader(data, 8), config, accelerator=accelerator, held=holds)
    for (name, learnt), expected in zip(narrow(full).state_dict().items(), small.state_dict().values(), strict=True):
        if learnt.is_floating_point():
            torch.testing.assert_close(learnt, expected, rtol=1e-9, atol=1e-12, msg=name)
    assert not torch.equal(full[0].weight, network().double()[0].weight)


@pytest.mark.parametrize(("passing", "best"), [(True, 4), (False, 1)])
def test_an_epoch_without_a_part_of_the_network_is_not_the_best(accelerator, passing: bool, best: int) -> None:
    ranks = iter([0.3, 0.9, 0.8, 0.2, 0.4])

    def score(model: nn.Module) -> Metrics:
        return Metrics({"figure": next(ranks)}, "figure")

    model, held = network(), Held(passing=passing)
    tuned = train(model, accelerator, TuningConfig(epochs=5, lr=0.05), held, holding(model, held), score=score)
    # What does not come back is left out of the result as well.
    assert tuned.best_epoch == best
    assert bool(tuned.best_state["8.weight"].all()) == passing


def test_what_cannot_be_held_is_an_error(accelerator) -> None:
    for masks_, kind in (({"nothing": torch.ones(1, dtype=torch.bool)}, KeyError),
                         ({"0.weight": torch.ones(4, dtype=torch.bool)}, ValueError)):  # fmt: skip
        held = Held()
        held.hold(masks_)
        with pytest.raises(kind):
            train(network(), accelerator, TuningConfig(epochs=1), held, None)


def test_holding_nothing_is_training_as_ever(accelerator) -> None:
    one, other = network(), network()
    config = TuningConfig(epochs=2, lr=0.05)
    train(one, accelerator, config, Held(), None)
    tune(other, shuffled(images()), DataLoader(images(), 8), config, accelerator=accelerator)
    assert same_bits(one.state_dict(), other.state_dict())
    assert not Held().masks
    held = Held()
    held.hold({"0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.bool)})
    assert not held.masks
