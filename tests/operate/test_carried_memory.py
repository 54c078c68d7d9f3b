"""What optimizers remember of a network whose layers get other widths."""

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from two_stages import EXAMPLE, Two, make_network

from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Resize, Width
from surgeon.edit.resize import carried
from surgeon.operate.moments import carry
from surgeon.tuning import TuningConfig, create_optimizer

COPIES = {"lookahead_slow_buff", "x0"}


def resized(model: Two, optimizer: Optimizer) -> Resize:
    """Give a network 5 channels for 6 and 10 for 8, and the optimizer the memory of that."""
    one, two = trace(model, EXAMPLE).groups
    edit = Resize((Width(one, torch.tensor([0, 2, 5]), 2), Width(two, torch.tensor([1, 2, 3, 6, 7]), 5)), 0)
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    execute(model, Plan("neural-rejuvenation", {}, (), (edit,)))
    carry(optimizer, model, edit, before)
    return edit


def step(model: Two, optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.rand(parameter.shape, generator=generator) + 0.5
    optimizer.step()


@pytest.mark.parametrize(
    "name", ["sgd", "adamw", "lamb", "nadamw", "rmsprop", "lion", "adan", "madgrad", "lookahead_adamw", "muon"]
)
def test_what_survives_is_remembered_bit_for_bit(name: str) -> None:
    model = make_network()
    optimizer = create_optimizer(model, TuningConfig(opt=name, lr=1e-3))
    for seed in range(2):
        step(model, optimizer, seed)
    inner = getattr(optimizer, "_base_optimizer", optimizer)
    names = {parameter: key for key, parameter in model.named_parameters()}
    before = {
        names[parameter]: {part: value.clone() for part, value in memory.items() if isinstance(value, Tensor)}
        for parameter, memory in inner.state.items()
    }
    edit = resized(model, optimizer)
    seen = 0
    for parameter, key in names.items():
        for part, value in before[key].items():
            now = inner.state[parameter][part]
            if value.numel() == 1 and parameter.dim():
                assert torch.equal(now, value)
                continue
            assert now.shape == parameter.shape
            assert now.dtype == value.dtype
            wanted = carried(edit, key, value)
            new = carried(edit, key, torch.ones_like(value)) == 0
            wanted[new] = parameter.detach()[new] if part in COPIES else 0
            assert torch.equal(now, wanted)
            seen += 1
    assert seen
    step(model, optimizer, 2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_what_is_remembered_beside_a_parameter_is_carried_too() -> None:
    model = make_network()
    optimizer = create_optimizer(model, TuningConfig(opt="adahessian", lr=1e-3))

    def train() -> None:
        optimizer.zero_grad()
        (model(EXAMPLE + 1) ** 2).sum().backward(create_graph=True)
        optimizer.step()

    train()
    before = {key: vars(parameter)["hess"].clone() for key, parameter in model.named_parameters()}
    edit = resized(model, optimizer)
    for key, parameter in model.named_parameters():
        wanted = carried(edit, key, before[key]) if key in edit.by_tensor else before[key]
        assert torch.equal(vars(parameter)["hess"], wanted)
    train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["adafactor", "adafactorbv", "novograd"])
def test_what_is_remembered_in_another_shape_is_forgotten(name: str) -> None:
    model = make_network()
    optimizer = create_optimizer(model, TuningConfig(opt=name, lr=1e-3))
    step(model, optimizer, 0)
    bias = optimizer.state[model.head.bias]
    kept = {part: value.clone() for part, value in bias.items() if isinstance(value, Tensor)}
    resized(model, optimizer)
    assert all(torch.equal(value, bias[part]) for part, value in kept.items())
    step(model, optimizer, 1)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
