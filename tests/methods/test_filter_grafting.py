"""Filter grafting by hand, partners that do not fit, and plain loops over real networks."""

import math

import numpy as np
import pytest
import torch
from compared_networks import NAMES, copied, network
from hand_made import carried_out, computed, conv, inputs, linear
from torch import nn

from surgeon.edit.execute import execute
from surgeon.errors import OptionError, PlanError
from surgeon.methods import make_config
from surgeon.methods.base import Inputs
from surgeon.methods.filter_grafting import FILTER_GRAFTING, FilterGraftingConfig, grafting_share, make_plan


def test_the_share_by_hand() -> None:
    # arctan(1) is π/4, so a quarter of a is added; far apart the arctan is ±π/2, half of a.
    assert grafting_share(1.5, 1.5, a=0.4, c=500) == 0.5
    assert grafting_share(1.002, 1.0, a=0.4, c=500) == pytest.approx(0.6, rel=1e-10)
    assert grafting_share(1.0, 1.002, a=0.4, c=500) == pytest.approx(0.4, rel=1e-10)
    assert grafting_share(1e9, 0, a=0.4, c=500) == pytest.approx(0.7, rel=1e-9)
    assert grafting_share(0, 1e9, a=1, c=500) == pytest.approx(0, abs=1e-9)


def layer_tensors(weight: torch.Tensor, value: int) -> dict[str, torch.Tensor]:
    """Return a convolution's tensors and its BatchNorm's; everything but the weight holds one value."""
    size = len(weight)
    keys = ["a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
    count = {"norm.num_batches_tracked": torch.tensor(value)}
    return {"a.weight": weight} | {key: torch.full((size,), float(value)) for key in keys} | count


def pair() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a layer of entropy log 2 in two bins, and its partner's of entropy 0."""
    own = torch.tensor([0.0, 0, 1, 1]).reshape(2, 2, 1, 1)
    other = torch.tensor([2.0, 2, 2, 2]).reshape(2, 2, 1, 1)
    return layer_tensors(own, 1), layer_tensors(other, 3)


def test_a_layer_is_mixed_with_its_partner_by_hand() -> None:
    tensors, partner = pair()
    # c makes the arctan π/4: the share is 0.4 / 4 + 0.5 = 0.6.
    config = FilterGraftingConfig(a=0.4, c=1 / math.log(2), bins=2)
    plan = make_plan(inputs([conv("a", bias=True, norm="norm")], tensors, partner=partner), config)
    after = carried_out(tensors, plan)
    torch.testing.assert_close(after["a.weight"].flatten(), torch.tensor([0.8, 0.8, 1.4, 1.4]))
    for key in ("a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(after[key], torch.tensor([1.8, 1.8]), msg=key)
    assert after["norm.num_batches_tracked"] == 1
    assert plan.figures == {
        "a": {"share": pytest.approx(0.6), "entropy": pytest.approx(math.log(2)), "partner_entropy": 0}
    }
    assert plan.skipped == ()


def test_each_network_is_the_others_partner() -> None:
    tensors, partner = pair()
    layers = [conv("a", bias=True, norm="norm")]
    first = make_plan(inputs(layers, tensors, partner=partner), FilterGraftingConfig())
    second = make_plan(inputs(layers, partner, partner=tensors), FilterGraftingConfig())
    assert first.figures["a"]["share"] + second.figures["a"]["share"] == pytest.approx(1)
    # So both become the same network, as one share's rest is the other's share.
    for key, tensor in carried_out(tensors, first).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, carried_out(partner, second)[key])


def test_a_tensor_that_layers_share_is_mixed_once() -> None:
    tensors, partner = pair()
    more = {"b.weight": torch.tensor([[5.0, 6.0]])}
    layers = [conv("a", bias=True, norm="norm"), conv("b", norm="norm")]
    plan = make_plan(inputs(layers, tensors | more, partner=partner | more), FilterGraftingConfig())
    keys = [edit.tensor for edit in plan.edits]
    assert sorted(keys) == sorted(set(keys))
    shares = {edit.tensor: edit.share for edit in plan.edits}
    assert shares["norm.weight"] == plan.figures["a"]["share"] != plan.figures["b"]["share"] == shares["b.weight"]


def test_only_the_targets_are_mixed_and_the_rest_is_said() -> None:
    tensors = {"stage.a.weight": torch.rand(2, 2), "stage.a.bias": torch.rand(2), "stage.scale": torch.rand(2)}
    tensors |= {"head.weight": torch.rand(2, 2), "head.bias": torch.rand(2), "token": torch.rand(2)}
    layers = [linear("stage.a"), computed("stage.normed"), linear("head")]
    plan = make_plan(inputs(layers, tensors, partner=tensors, targets=("stage",)), FilterGraftingConfig())
    assert [edit.tensor for edit in plan.edits] == ["stage.a.weight", "stage.a.bias"]
    assert plan.skipped == (
        "stage.normed: left alone; its weight is computed from other tensors.",
        "Left alone, because they are no layer's weight or bias, nor in the BatchNorm right behind one: stage.scale.",
    )


def test_the_method_says_that_it_needs_a_partner() -> None:
    assert FILTER_GRAFTING.needs_partner
    tensors, _ = pair()
    with pytest.raises(OptionError, match="filter-grafting has no second network"):
        make_plan(inputs([conv("a")], tensors), FilterGraftingConfig())


def test_partners_of_another_architecture_are_refused() -> None:
    tensors, partner = pair()
    layers = [conv("a", bias=True, norm="norm")]
    wide = partner | {"norm.weight": torch.ones(3), "norm.bias": torch.ones(3)}
    with pytest.raises(PlanError, match=r"'norm\.weight' has the shape \(3,\), in the network \(2,\)"):
        make_plan(inputs(layers, tensors, partner=wide), FilterGraftingConfig())
    poor = {key: tensor for key, tensor in partner.items() if key != "a.bias"}
    with pytest.raises(PlanError, match=r"The partner has no tensor 'a\.bias'"):
        make_plan(inputs(layers, tensors, partner=poor), FilterGraftingConfig())
    rich = partner | {"b.weight": torch.ones(3)}
    with pytest.raises(PlanError, match=r"The partner has a tensor 'b\.weight'"):
        make_plan(inputs(layers, tensors, partner=rich), FilterGraftingConfig())


def test_weights_that_are_not_finite_are_refused() -> None:
    tensors, partner = pair()
    partner["a.weight"][1, 1] = math.nan
    with pytest.raises(PlanError, match=r"The partner's 'a\.weight' holds values that are not finite"):
        make_plan(inputs([conv("a")], tensors, partner=partner), FilterGraftingConfig())


@pytest.mark.parametrize(
    ("name", "value"), [("a", 0), ("a", 1.1), ("c", 0), ("c", math.inf), ("bins", 1), ("every", 0)]
)
def test_options_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"option {name} of filter-grafting is {value}"):
        make_config(FILTER_GRAFTING, {name: value})


def plain_loops(
    model: nn.Module, state: dict[str, torch.Tensor], partner: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors after grafting: what the network lists after a layer goes by its share."""
    result = dict(state)
    share = math.nan
    for name, module in model.named_modules():
        own = {key for key in module.state_dict() if "." not in key}
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            entropies = []
            for tensors in (state, partner):
                counts, _ = np.histogram(tensors[f"{name}.weight"].double().numpy(), bins=10)
                shares = [count / counts.sum() for count in counts.tolist() if count]
                entropies.append(-sum(part * math.log(part) for part in shares))
            share = 0.4 / math.pi * math.atan(500 * (entropies[0] - entropies[1])) + 0.5
        for key in sorted(own - {"num_batches_tracked"}):
            full = f"{name}.{key}"
            result[full] = share * state[full].double() + (1 - share) * partner[full].double()
    return result


@pytest.mark.parametrize("name", NAMES)
def test_real_networks_agree_with_plain_loops(name: str) -> None:
    model, graph = network(name)
    before = copied(model)
    generator = torch.Generator().manual_seed(1)
    partner = {
        key: tensor + 0.02 * torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for key, tensor in before.items()
    }
    expected = plain_loops(model, before, partner)
    plan = make_plan(Inputs(graph, (), before, partner=partner), FilterGraftingConfig())
    execute(model, plan)
    assert plan.skipped == ()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[key].double(), rtol=1e-5, atol=1e-6, msg=key)
