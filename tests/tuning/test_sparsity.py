"""The penalty on scales: its gradient, by hand, and only on the parameters that are named."""

import pytest
import torch
from pieces import images, network, same_bits, shuffled
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.tuning import Sparsity, TuningConfig, make_accelerator, tune


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


class Scaled(nn.Module):
    """Two classes whose logits do not depend on the scale at all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, -0.5, 0.0]))
        self.other = nn.Parameter(torch.tensor([2.0]))
        self.head = nn.Linear(1, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(pixels.flatten(1)) + 0 * (self.scale.sum() + self.other)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_moves_every_scale_towards_zero_by_the_rate_times_the_coefficient(
    accelerator, accumulate: int
) -> None:
    model, sparsity = Scaled(), Sparsity({"scale"})
    sparsity.coefficient = 0.25
    data = TensorDataset(torch.ones(4, 1, 1, 1), torch.tensor([0, 1, 0, 1]))
    config = TuningConfig(
        epochs=1, opt="momentum", momentum=0.0, lr=0.5, sched="none", weight_decay=0.0, accumulate=accumulate
    )
    two = DataLoader(data, 4 // accumulate)
    tune(
        model, two, two, config, accelerator=make_accelerator("no", cpu=True, accumulate=accumulate), sparsity=sparsity
    )
    # One update: 0.5 · 0.25 = 0.125 less in magnitude; the sign of zero is zero.
    assert model.scale.tolist() == [1.875, -0.375, 0.0]
    assert model.other.tolist() == [2.0]


def test_a_scale_stops_at_zero_and_leaves_it_only_for_the_loss() -> None:
    model, sparsity = Scaled(), Sparsity({"scale"})
    sparsity.coefficient = 0.25
    with torch.no_grad():
        model.scale.copy_(torch.tensor([0.1, -0.1, 0.0]))
    # The loss alone would move them up by 0, up by 0.05 and up by 0.1 (its gradient is below the coefficient).
    optimizer = torch.optim.SGD([model.scale], lr=0.5, momentum=0.9)
    model.scale.grad = torch.tensor([0.0, -0.1, -0.2])
    sparsity.before_update(model)
    assert torch.allclose(model.scale.grad, torch.tensor([0.25, -0.35, 0.0]))
    optimizer.step()
    sparsity.after_update()
    assert model.scale.tolist() == [0.0, 0.0, 0.0]
    # Momentum alone carries nothing away; a gradient above the coefficient does: 0.5 · (0.45 - 0.25) = 0.1.
    model.scale.grad = torch.tensor([0.0, 0.25, -0.45])
    sparsity.before_update(model)
    optimizer.step()
    sparsity.after_update()
    assert torch.allclose(model.scale.detach(), torch.tensor([0.0, 0.0, 0.1]))


def test_without_a_penalty_scales_cross_zero() -> None:
    model, sparsity = Scaled(), Sparsity({"scale"})
    model.scale.grad = torch.tensor([5.0, 0.0, 0.0])
    sparsity.before_update(model)
    torch.optim.SGD([model.scale], lr=1.0).step()
    sparsity.after_update()
    assert model.scale.tolist() == [-3.0, -0.5, 0.0]


def test_a_coefficient_of_zero_changes_nothing(accelerator) -> None:
    one, other = network(), network()
    config = TuningConfig(epochs=2, lr=0.05)
    for model, sparsity in ((one, Sparsity({"1.weight"})), (other, None)):
        tune(model, shuffled(images()), DataLoader(images(), 8), config, accelerator=accelerator, sparsity=sparsity)
    assert same_bits(one.state_dict(), other.state_dict())


def test_the_gradients_scale_is_not_asked_for_without_a_penalty(accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it makes the host wait for the device."""

    class Scaler:
        asked = 0

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss

        def step(self, optimizer: torch.optim.Optimizer, closure: None = None) -> None:
            optimizer.step()

        def update(self) -> None: ...

        def get_scale(self) -> float:
            self.asked += 1
            return 1.0

    config = TuningConfig(epochs=1, lr=0.05)
    for coefficient in (0.0, 0.1):
        scaler, sparsity = Scaler(), Sparsity({"1.weight"})
        sparsity.coefficient = coefficient
        monkeypatch.setattr(accelerator, "scaler", scaler)
        whole = DataLoader(images(), 8)
        tune(network(), whole, whole, config, accelerator=accelerator, sparsity=sparsity)
        assert (scaler.asked > 0) == (coefficient > 0)


def test_the_gradients_scale_of_mixed_precision_scales_it_too() -> None:
    model, sparsity = Scaled(), Sparsity({"scale"})
    sparsity.coefficient = 0.25
    model.scale.grad = torch.zeros(3)
    sparsity.before_update(model, 1024.0)
    assert model.scale.grad.tolist() == [256.0, -256.0, 0.0]
