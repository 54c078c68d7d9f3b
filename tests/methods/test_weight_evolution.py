"""Weight evolution by hand, what it leaves alone, and plain loops over real networks."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from compared_networks import NAMES, copied, modules_of, network
from hand_made import carried_out, computed, conv, inputs
from torch import nn

from surgeon.edit.execute import execute
from surgeon.errors import OptionError
from surgeon.methods import make_config
from surgeon.methods.base import Inputs
from surgeon.methods.weight_evolution import WEIGHT_EVOLUTION, WeightEvolutionConfig, make_plan

HALF = WeightEvolutionConfig(alpha=0.5, beta=0.5)


def three_filters() -> torch.Tensor:
    """Return `[3, 2, 1, 2]`: a weak filter, a strong one, and a weaker one with the largest weight."""
    weak = [[[1.0, -0.5]], [[0.25, 2.0]]]
    strong = [[[5.0, 6.0]], [[-9.0, 7.0]]]
    pointed = [[[0.0, 0.5]], [[10.0, 0.0]]]
    return torch.tensor([weak, strong, pointed])


def test_the_smallest_weight_of_each_kernel_is_replaced_by_hand() -> None:
    tensors = {"a.weight": three_filters()}
    plan = make_plan(inputs([conv("a")], tensors), HALF)
    expected = three_filters()
    expected[0] = torch.tensor([[[1.0, -9.0]], [[-9.0, 2.0]]])
    assert carried_out(tensors, plan)["a.weight"].equal(expected)
    assert plan.figures == {
        "a": {"filters": 3, "invalid_filters": 1, "replaced_weights": 2, "most_valid_filter": 1, "value": -9}
    }
    assert tensors["a.weight"].equal(three_filters()), "making a plan changed the weights"


def test_filters_of_a_transposed_convolution_lie_along_the_second_axis() -> None:
    tensors = {"a.weight": three_filters().transpose(0, 1).contiguous()}
    plan = make_plan(inputs([conv("a", filters=1)], tensors), HALF)
    expected = three_filters()
    expected[0] = torch.tensor([[[1.0, -9.0]], [[-9.0, 2.0]]])
    assert carried_out(tensors, plan)["a.weight"].equal(expected.transpose(0, 1))
    (change,) = plan.changes()
    assert (change.dim, change.channels, change.positions.tolist()) == (1, 1, [0])


def test_a_shared_weight_is_found_under_any_of_its_modules_names() -> None:
    layer = dataclasses.replace(conv("a"), names=("a", "b.c"))
    for target, count in (("a", 1), ("b", 1), ("b.c", 1), ("c", 0)):
        given = inputs([layer], {"a.weight": three_filters()}, targets=(target,))
        assert (len(given.layers()), len(make_plan(given, HALF).edits)) == (count, count)


def test_of_equal_weights_the_first_gives_way_and_of_equal_filters_the_last_is_the_most_valid() -> None:
    weight = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, -1, 1]]).reshape(3, 1, 3)
    plan = make_plan(inputs([conv("a")], {"a.weight": weight}), HALF)
    assert plan.figures["a"]["most_valid_filter"] == 2
    assert plan.edits[0].entries.tolist() == [0]


def test_a_filter_of_kernels_of_one_weight_becomes_constant() -> None:
    weight = torch.tensor([[1.0, 2, -3], [4, 5, -6]]).reshape(2, 3, 1, 1)
    plan = make_plan(inputs([conv("a")], {"a.weight": weight}), HALF)
    assert carried_out({"a.weight": weight}, plan)["a.weight"].flatten().tolist() == [-6, -6, -6, 4, 5, -6]
    # Which filter it is says it all, however many weights it has.
    (edit,) = plan.edits
    assert (edit.blocks.tolist(), edit.values.tolist(), edit.block_size, edit.count) == ([0], [-6], 3, 3)


def test_a_filter_of_single_weights_of_a_transposed_convolution_becomes_constant() -> None:
    weight = torch.tensor([[1.0, 2, -3], [4, 5, -6]]).reshape(2, 3, 1, 1).transpose(0, 1).contiguous()
    plan = make_plan(inputs([conv("a", filters=1)], {"a.weight": weight}), HALF)
    assert carried_out({"a.weight": weight}, plan)["a.weight"].flatten().tolist() == [-6, 4, -6, 5, -6, -6]


def test_what_is_left_alone_is_said() -> None:
    tensors = {"zero.weight": torch.zeros(4, 2, 3, 3)}
    plan = make_plan(inputs([computed("normed"), conv("zero")], tensors), HALF)
    assert plan.edits == ()
    assert plan.skipped == (
        "normed: left alone; its weight is computed from other tensors.",
        "zero: left alone; all its weights are zero, so there is no stronger one to take.",
    )


def test_only_the_targets_are_edited() -> None:
    tensors = {"a.weight": three_filters(), "b.weight": three_filters()}
    plan = make_plan(inputs([conv("a"), conv("b")], tensors, targets=("b",)), HALF)
    assert [edit.tensor for edit in plan.edits] == ["b.weight"]


@pytest.mark.parametrize(("name", "value"), [("alpha", 0), ("alpha", 1), ("beta", 1.2), ("beta", -1), ("every", 0)])
def test_options_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"option {name} of weight-evolution is {value}"):
        make_config(WEIGHT_EVOLUTION, {name: value})


def plain_loops(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the weights of all convolutions after weight evolution with the paper's values, by plain loops."""
    weights = {name: state[f"{name}.weight"].double().numpy().copy() for name in modules_of(model, nn.Conv2d)}
    means = {(name, o): np.abs(row).mean() for name, weight in weights.items() for o, row in enumerate(weight)}
    weakest = set(sorted(means, key=lambda place: means[place])[: len(means) * 2 // 10])
    for name, weight in weights.items():
        filters = sorted(range(len(weight)), key=lambda o: means[name, o])
        strongest = max(weight[filters[-1]].flatten().tolist(), key=abs)
        for o in filters[: len(filters) * 3 // 10]:
            if (name, o) not in weakest:
                continue
            for kernel in weight[o]:
                numbers = np.abs(kernel).flatten().tolist()
                kernel.reshape(-1)[numbers.index(min(numbers))] = strongest
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_real_networks_agree_with_plain_loops(name: str) -> None:
    model, graph = network(name)
    before = copied(model)
    expected = plain_loops(model, before)
    execute(model, make_plan(Inputs(graph, (), before), WeightEvolutionConfig()))
    after = model.state_dict()
    for key, tensor in before.items():
        layer = key.removesuffix(".weight")
        if layer in expected:
            assert after[key].double().equal(torch.from_numpy(expected[layer])), key
        else:
            assert after[key].equal(tensor), key
    assert any(not after[key].equal(tensor) for key, tensor in before.items())
