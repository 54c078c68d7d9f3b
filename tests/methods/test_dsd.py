"""Dense-sparse-dense training: which weights are pruned."""

import pytest
import torch
from torch import Tensor, nn

from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Set
from surgeon.errors import LayerError, OptionError
from surgeon.methods.base import Inputs, Phase
from surgeon.methods.dsd import DsdConfig, check, make_plan


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (1, 2))
        self.up = nn.ConvTranspose2d(2, 5, 1, bias=False)
        self.head = nn.Linear(5, 2)
        self.scale = nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[[[1.0, -0.5]]], [[[0.25, -2.0]]]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.up(self.conv(self.scale(images)).relu()).mean((2, 3)))


def inputs(model: nn.Module, *targets: str, **others: object) -> Inputs:
    return Inputs(trace(model, torch.zeros(1, 1, 4, 4)), targets, model.state_dict(), **others)


def test_the_smallest_weights_of_every_layer_are_pruned() -> None:
    model = Net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plan = make_plan(inputs(model), DsdConfig(ratio=0.5))
    execute(model, plan)
    after = model.state_dict()
    assert after["conv.weight"].flatten().tolist() == [1.0, 0.0, 0.0, -2.0]
    assert torch.equal(after["conv.bias"], before["conv.bias"])
    for key, count in (("conv.weight", 2), ("up.weight", 5), ("head.weight", 5)):
        pruned = after[key] == 0
        assert int(pruned.sum()) == count
        assert before[key][pruned].abs().max() <= before[key][~pruned].abs().min()
        assert torch.equal(after[key][~pruned], before[key][~pruned])
    assert plan.skipped == ("scale: its weights are left alone: they are too few for a share of 0.5.",)
    assert plan.figures["conv"] == {"pruned": 2, "weights": 4}


def test_the_changes_of_a_transposed_convolution_are_of_its_filters() -> None:
    plan = make_plan(inputs(Net(), "up"), DsdConfig(ratio=0.9))
    (change,) = plan.changes()
    # Nine of ten weights of five filters with two each: every filter loses one.
    assert (change.tensor, change.dim, change.channels) == ("up.weight", 1, 5)


def test_letting_go_edits_nothing() -> None:
    model = Net()
    held = {"conv.weight": Set("conv.weight", torch.tensor([1]), torch.tensor([0.5]), "")}
    assert not make_plan(inputs(model).at(Phase(2, "full network", False, 0), held), DsdConfig()).edits


def test_bad_input() -> None:
    for value in (0.0, 1.0, -1.0):
        with pytest.raises(OptionError, match="The option ratio of dsd"):
            DsdConfig(ratio=value)
    with pytest.raises(LayerError, match="too few"):
        check(inputs(Net(), "scale"), DsdConfig())
    with pytest.raises(LayerError, match="they are frozen"):
        check(inputs(Net(), "conv", frozen={"conv.weight"}), DsdConfig())
