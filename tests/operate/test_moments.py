"""What an optimizer remembers after an edit: nothing of what was edited, everything else bit by bit."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, EXAMPLE, Two

import surgeon
from surgeon.edit.plan import Plan
from surgeon.methods import METHODS
from surgeon.operate import carrying
from surgeon.operate.moments import forget
from surgeon.tuning import TuningConfig, create_optimizer

OPTIMIZERS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq"), "lamb": ("exp_avg", "exp_avg_sq")}
OPTIONS: dict[str, dict[str, Any]] = {
    "sofm": {"ratio": 0.5},
    "channel-regeneration": {"preserve": False},
    "kernel-reactivation": {"alpha": 0.5, "beta": 0.5, "gamma": 0.3},
    "weight-evolution": {"alpha": 0.5, "beta": 0.5},
    "filter-grafting": {},
    "reinit": {"ratio": 0.5, "criterion": "l2"},
    "repr": {},
    "dsd": {},
    "neural-rejuvenation": {"rescale": True},
}


def make_network(seed: int) -> Two:
    """A network no two numbers of which are alike, statistics included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Two().eval()
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0).mul_(torch.randint(0, 2, tensor.shape) * 2 - 1 if tensor.dim() > 1 else 1)
        return model


def loader() -> DataLoader[Any]:
    labels = torch.arange(24) % CLASSES
    images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), 8)


def remembering(model: Two, name: str) -> Optimizer:
    """An optimizer with a memory of every entry."""
    optimizer = create_optimizer(model, TuningConfig(opt=name, lr=1e-3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.rand(parameter.shape, generator=generator) + 0.5
        optimizer.step()
    return optimizer


def memory(optimizer: Optimizer, model: Two, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {
        f"{key}/{name}": optimizer.state[parameter][name].clone()
        for key, parameter in model.named_parameters()
        for name in names
    }


def check_memory(
    before: dict[str, Tensor], after: dict[str, Tensor], old: dict[str, Tensor], new: dict[str, Tensor]
) -> int:
    """Hold what was forgotten against which weights have changed, and return how many entries those are."""
    forgotten = 0
    for place, remembered in after.items():
        key = place.partition("/")[0]
        changed = old[key] != new[key]
        assert before[place].all(), place
        assert not remembered[changed].any(), place
        assert torch.equal(remembered[~changed], before[place][~changed]), place
        forgotten += int(changed.sum())
    return forgotten


def weights(model: Two) -> dict[str, Tensor]:
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


def test_every_method_is_covered() -> None:
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", OPTIONS)
def test_what_a_method_edits_is_forgotten_and_nothing_else(method: str, name: str) -> None:
    model = make_network(0)
    if method == "neural-rejuvenation":
        # One channel of each stage is dead.
        model.one[1].weight.data[0] = model.two[1].weight.data[1] = 1e-4
    optimizer = remembering(model, name)
    old, before = weights(model), memory(optimizer, model, OPTIMIZERS[name])
    partner = make_network(1) if METHODS[method].needs_partner else None
    layers = ["two"] if METHODS[method].scope == "target" else []
    made = surgeon.plan(
        model, method, layers, loader(), partner=partner, example_input=EXAMPLE, **OPTIONS[method]
    )  # fmt: skip
    surgeon.execute(model, made)
    forget(optimizer, model, made)
    after = memory(optimizer, model, OPTIMIZERS[name])
    assert check_memory(before, after, old, weights(model)) > 0
    steps = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert steps <= {2.0}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("method", "layers"), [("sofm", ["one", "two"]), ("reinit", [])])
def test_it_is_so_for_every_target_and_every_repetition(
    monkeypatch: pytest.MonkeyPatch, name: str, method: str, layers: list[str]
) -> None:
    executed: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    checked: list[int] = []
    execute = carrying.execute

    def spying_execute(model: Two, made: Plan) -> None:
        old = weights(model)
        execute(model, made)
        executed.append((old, weights(model)))

    def spying_forget(optimizer: Optimizer, model: Two, made: Plan) -> None:
        def remembered() -> dict[str, Tensor]:
            return {
                f"{key}/{part}": optimizer.state[parameter][part].clone()
                for key, parameter in model.named_parameters()
                if parameter.requires_grad
                for part in OPTIMIZERS[name]
            }

        before = remembered()
        forget(optimizer, model, made)
        old, new = executed[-1]
        # A dead filter has no gradient, and nothing of it is remembered.
        for place, values in remembered().items():
            changed = old[place.partition("/")[0]] != new[place.partition("/")[0]]
            assert not values[changed].any(), place
            kept = ~changed & (values != before[place])
            assert not kept.any(), place
        checked.append(len(made.edits))

    monkeypatch.setattr(carrying, "execute", spying_execute)
    monkeypatch.setattr(carrying, "forget", spying_forget)
    record = surgeon.apply(
        make_network(0), method, layers, train=loader(), val=loader(), epochs=3, every=1, example_input=EXAMPLE,
        tuning=TuningConfig(opt=name, lr=1e-3), **OPTIONS[method],
    )  # fmt: skip
    # Twice during the fine-tuning after each target.
    assert len(checked) == 2 * max(1, len(layers))
    assert all(checked)
    assert len(record.epochs) == 3 * max(1, len(layers))
