"""New values come a few rows at a time and are those of a whole layer that starts anew."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from surgeon.edit.init import fresh_rows
from surgeon.edit.plan import PIECE


def fresh(model: nn.Module, key: str, seed: int = 3) -> torch.Tensor:
    """Return the fresh tensor, put together."""
    pieces = list(fresh_rows(model, key, seed))
    starts, rows = zip(*pieces, strict=True)
    whole = torch.cat(rows)
    assert list(starts) == torch.tensor([0, *map(len, rows)]).cumsum(0).tolist()[:-1]
    assert (whole.shape, whole.dtype) == (model.state_dict()[key].shape, model.state_dict()[key].dtype)
    return whole


def reset(layer: nn.Module, seed: int = 3) -> dict[str, torch.Tensor]:
    """Return the tensors of a copy of the whole layer that has reset itself."""
    twin = copy.deepcopy(layer).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin.reset_parameters()
    return twin.state_dict()


LAYERS = {
    "convolution": nn.Conv2d(40, 300, 3),
    "grouped": nn.Conv2d(64, 96, 5, groups=2),
    "transposed": nn.ConvTranspose2d(700, 30, 2),
    "without bias": nn.Conv1d(30, 5000, 2, bias=False),
    "linear": nn.Linear(900, 200),
    "rows above a piece": nn.Linear(PIECE + 1, 3),
    "half": nn.Conv2d(40, 300, 3).bfloat16(),
    "double": nn.Linear(900, 200).double(),
    "channels last": nn.Conv2d(40, 300, 3).to(memory_format=torch.channels_last),
    "small": nn.Conv2d(3, 4, 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_those_of_the_whole_layer(name: str) -> None:
    model = nn.Sequential(LAYERS[name])
    before = copy.deepcopy(model.state_dict())
    position = torch.get_rng_state()
    for key, expected in reset(model[0]).items():
        assert torch.equal(fresh(model, f"0.{key}"), expected.to(before[f"0.{key}"].dtype))
    assert torch.equal(torch.get_rng_state(), position)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_pieces_of_a_large_layer_are_small() -> None:
    pieces = [rows for _, rows in fresh_rows(nn.Sequential(nn.Conv2d(64, 512, 3)), "0.weight", 0)]
    assert len(pieces) == 512 * 64 * 9 // PIECE + 1
    assert max(rows.numel() for rows in pieces) <= PIECE


class Orthogonal(nn.Linear):
    """A layer with an initialization of its own, in which every row depends on all others."""

    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)


def test_a_layers_own_initialization_is_run_as_a_whole() -> None:
    layer = Orthogonal(700, 200)
    weight = fresh(nn.Sequential(layer), "0.weight")
    torch.testing.assert_close(weight @ weight.T, torch.eye(200))
    assert not torch.equal(weight, layer.weight)
    assert not fresh(nn.Sequential(layer), "0.bias").any()


class Scaled(nn.Conv2d):
    """A convolution with a parameter that its `reset_parameters` does not know."""

    def __init__(self) -> None:
        super().__init__(2, 400, 1)
        self.gain = nn.Parameter(torch.linspace(4, 6, 400)[:, None])


def test_parameters_that_no_layer_starts_are_drawn_around_the_present_ones() -> None:
    gain = fresh(nn.Sequential(Scaled()), "0.gain")
    assert gain.unique().numel() == 400
    assert gain.mean().item() == pytest.approx(5, abs=0.1)
    assert gain.std().item() == pytest.approx(2 / 12**0.5, rel=0.1)


def test_a_layer_that_already_has_the_values_of_the_seed_gets_others() -> None:
    layer = nn.Conv2d(40, 300, 3)
    layer.load_state_dict(reset(layer))
    renewed = fresh(nn.Sequential(layer), "0.weight")
    assert not (renewed == layer.weight).any()


def test_a_weight_that_a_hook_computes_is_drawn_around_the_present_one() -> None:
    with pytest.warns(FutureWarning):
        layer = torch.nn.utils.weight_norm(nn.Conv2d(4, 40, 3))
    direction = fresh(nn.Sequential(layer), "0.weight_v")
    assert direction.std().item() == pytest.approx(layer.weight_v.std().item(), rel=0.1)
    assert not (direction == layer.weight_v).any()


def test_a_frozen_batch_norm_starts_anew_like_any_other() -> None:
    layer = FrozenBatchNorm2d(4)
    layer.running_var.fill_(3)
    starts = {name: fresh(nn.Sequential(layer), f"0.{name}").unique().tolist() for name in layer.state_dict()}
    assert starts == {"weight": [1.0], "bias": [0.0], "running_mean": [0.0], "running_var": [1.0]}
