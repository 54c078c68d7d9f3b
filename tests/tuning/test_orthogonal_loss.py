"""The orthogonal loss: by hand, of every kind of convolution, and in training."""

import copy

import numpy as np
import pytest
import torch
from pieces import images, shuffled
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from surgeon.errors import OptionError
from surgeon.measure.criteria import ortho
from surgeon.tuning import EpochByEpoch, TuningConfig, make_accelerator, tune
from surgeon.tuning.orthogonal_loss import NEGLIGIBLE, orthogonal_loss, overlap


@pytest.fixture(scope="module")
def accelerator():
    return make_accelerator("no", cpu=True)


def filters(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def summed(rows: np.ndarray) -> float:
    """Sum |cosine| up over all pairs of different rows, one at a time, both ways."""
    total = 0.0
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                total += abs(one @ other) / np.sqrt((one @ one) * (other @ other))
    return total


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_two_filters_by_hand() -> None:
    # The cosine is -24/25, and counts once for either filter.
    weight = filters([3, 4], [-8, -6])
    value = overlap(weight)
    value.backward()
    assert value.item() == pytest.approx(48 / 25, rel=1e-14)
    expected = torch.tensor([[0.0896, -0.0672], [0.0336, -0.0448]], dtype=torch.float64)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-15)


def test_equal_filters_overlap_most_and_orthogonal_ones_not_at_all() -> None:
    assert overlap(filters([1, 2], [2, 4], [-3, -6])).item() == pytest.approx(6)
    assert overlap(torch.eye(4)).item() == 0
    assert overlap(filters([5, 5])).item() == 0


def test_it_is_the_sum_that_the_criterion_is_made_of() -> None:
    weight = drawn(7, 5)
    assert overlap(weight).item() == pytest.approx(summed(weight.numpy()), rel=1e-12)
    assert overlap(weight).item() == pytest.approx(7 * ortho(weight).sum().item(), rel=1e-12)


def test_its_gradient_and_second_gradient_are_those_of_differences() -> None:
    weight = drawn(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(overlap, weight)
    assert torch.autograd.gradgradcheck(overlap, weight)


@pytest.mark.parametrize("nothing", [0.0, 1e-30, 0.5 * NEGLIGIBLE])
def test_filters_of_nothing_count_as_if_they_were_not_there(nothing: float) -> None:
    weight = filters([0.6, 0.8], [nothing, 0], [0.8, 0.6], [0, 0])
    value = overlap(weight)
    value.backward()
    assert value.item() == pytest.approx(2 * 0.96)
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert not weight.grad[[1, 3]].any()
    assert weight.grad[[0, 2]].all()


def test_a_layer_of_zeros_has_no_loss_and_no_gradient() -> None:
    weight = torch.zeros(3, 2, requires_grad=True)
    value = overlap(weight)
    value.backward()
    assert value.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


class Kinds(nn.Module):
    """Every kind of convolution, one of them twice, and layers that are none or have no weight of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 2)
        self.again = nn.Conv2d(3, 4, 2)
        self.again.weight = self.plain.weight
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.across = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.sequence = nn.Conv1d(2, 3, 3)
        self.solid = nn.ConvTranspose3d(2, 3, 2)
        self.frozen = nn.Conv2d(3, 4, 2).requires_grad_(False)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 2))
        self.linear = nn.Linear(4, 4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filters_of_every_kind_of_convolution_count_and_nothing_else(memory_format: torch.memory_format) -> None:
    model = Kinds().double()
    across, solid = model.across.weight.detach().numpy(), model.solid.weight.detach().numpy()
    # The first two inputs have the first three outputs, the others the last three.
    rows = [across[2 * group : 2 * group + 2, output].ravel() for group in range(2) for output in range(3)]
    expected = summed(np.array(rows)) + summed(np.array([solid[:, output].ravel() for output in range(3)]))
    for layer in (model.plain, model.depthwise, model.sequence):
        expected += summed(layer.weight.detach().numpy().reshape(len(layer.weight), -1))
    for layer in (model.plain, model.depthwise, model.across, model.frozen):
        layer.to(memory_format=memory_format)
    loss = orthogonal_loss(model)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    names = ("plain", "depthwise", "across", "sequence", "solid")
    assert learning == {f"{name}.weight" for name in names}


def test_it_is_computed_in_full_precision() -> None:
    layer = nn.Conv2d(3, 8, 3)
    outside = orthogonal_loss(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = orthogonal_loss(layer)
    assert inside.dtype == torch.float32
    assert inside.equal(outside)
    half = layer.bfloat16()
    assert orthogonal_loss(half).equal(overlap(half.weight.float().flatten(1)))


def small() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(36, 3)]
        return nn.Sequential(*layers)


PLAIN = {"epochs": 1, "opt": "momentum", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "sched": "none"}


@pytest.mark.parametrize("own", [False, True], ids=["cross-entropy", "an objective of one's own"])
def test_an_update_follows_the_gradients_of_both_terms(accelerator, own: bool) -> None:
    model, by_hand = small(), small()
    pixels, labels = images(12).tensors
    loss = functional.multi_margin_loss if own else functional.cross_entropy
    objective = (lambda network, batch: loss(network(batch[0]), batch[1])) if own else None
    tune(
        model,
        DataLoader(images(12), 12),
        DataLoader(images(12), 12),
        TuningConfig(**PLAIN, orthogonal_loss=0.3),
        accelerator=accelerator,
        objective=objective,
    )
    total = loss(by_hand(pixels), labels) + 0.3 * sum(ortho(by_hand[place].weight).sum() * 4 for place in (0, 2))
    total.backward()
    for parameter, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(parameter.data, expected.data - 0.1 * expected.grad, rtol=1e-5, atol=1e-6)


def test_the_training_loss_has_the_term_and_figures_of_validation_have_not(accelerator) -> None:
    records = []
    for weight in (0.0, 0.25):
        config = TuningConfig(**{**PLAIN, "lr": 1e-12, "clip_grad": 1e-6}, orthogonal_loss=weight)
        tuned = tune(small(), shuffled(images(20)), DataLoader(images(), 8), config, accelerator=accelerator)
        records.append(tuned.epochs[0])
    without, with_it = records
    assert with_it.train_loss - without.train_loss == pytest.approx(0.25 * orthogonal_loss(small()).item(), rel=1e-4)
    assert with_it.loss == without.loss


def test_accumulated_batches_have_it_once() -> None:
    model, whole = small(), small()
    config, data = TuningConfig(epochs=2, lr=0.05, orthogonal_loss=0.2), images(20)
    # Five batches of four are an update of three and one of two, as batches of twelve and eight are.
    for network, accumulate in ((model, 3), (whole, 1)):
        loader = DataLoader(data, 12 // accumulate)
        accelerator = make_accelerator("no", cpu=True, accumulate=accumulate)
        tune(network, loader, DataLoader(data, 8), config, accelerator=accelerator)
    torch.testing.assert_close(model.state_dict(), whole.state_dict())


def test_it_makes_filters_overlap_less(accelerator) -> None:
    found = []
    for weight in (0.0, 0.05):
        model = small()
        config = TuningConfig(epochs=5, lr=0.05, orthogonal_loss=weight)
        assert list(EpochByEpoch(model, shuffled(images()), config, accelerator=accelerator)) == list(range(5))
        found.append(orthogonal_loss(model).item())
    assert found[1] < 0.3 * found[0]


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_an_optimizer_of_second_gradients_takes_it(accelerator) -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    config = TuningConfig(epochs=1, opt="adahessian", lr=0.01, orthogonal_loss=0.1)
    tune(model, shuffled(images()), DataLoader(images(), 8), config, accelerator=accelerator)
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model, batch: 1.0,
        lambda model, batch: model(batch[0]).mean().detach(),
        lambda model, batch: model(batch[0]).mean(1),
    ],
    ids=["a number", "no gradient", "no scalar"],
)
def test_a_loss_that_is_none_is_refused_beside_it_too(accelerator, wrong) -> None:
    config = TuningConfig(epochs=1, orthogonal_loss=0.1)
    with pytest.raises(OptionError, match="not a scalar with a gradient"):
        tune(small(), shuffled(images()), DataLoader(images(), 8), config, accelerator=accelerator, objective=wrong)


@pytest.mark.parametrize(
    ("make", "freeze"),
    [(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), ()), (small, ("0", "2"))],
    ids=["no convolution", "all frozen"],
)
def test_a_network_without_convolutions_to_train_is_refused(accelerator, make, freeze) -> None:
    config = TuningConfig(epochs=1, orthogonal_loss=0.1, freeze=freeze)
    with pytest.raises(OptionError, match="one of convolutions"):
        tune(make(), shuffled(images()), DataLoader(images(), 8), config, accelerator=accelerator)
