"""Kernel reactivation by hand, its schedule, what it leaves alone, and plain loops over real networks."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from compared_networks import NAMES, copied, modules_of, network
from hand_made import carried_out, computed, conv, inputs, linear
from torch import nn

from surgeon.edit.execute import execute
from surgeon.errors import OptionError
from surgeon.methods import make_config
from surgeon.methods.base import Inputs
from surgeon.methods.kernel_reactivation import KERNEL_REACTIVATION, KernelReactivationConfig, annealed, make_plan

HALF = KernelReactivationConfig(alpha=0.5, beta=0.5, gamma=0.5)


def two_filters() -> torch.Tensor:
    """Return `[2, 2, 1, 2]`: kernels of L1 norm 2 and 0.5 in a weak filter, 10 and 12 in a strong one."""
    return torch.tensor([[[[1.0, -1.0]], [[0.375, -0.125]]], [[[5.0, 5.0]], [[6.0, 6.0]]]])


def test_a_weak_kernel_is_scaled_to_the_best_of_its_filter_by_hand() -> None:
    tensors = {"a.weight": two_filters()}
    plan = make_plan(inputs([conv("a")], tensors), HALF)
    # R = 2 / 0.5 = 4; the best kernel and the strong filter stay.
    expected = torch.tensor([[[[1.0, -1.0]], [[1.5, -0.5]]], [[[5.0, 5.0]], [[6.0, 6.0]]]])
    assert carried_out(tensors, plan)["a.weight"].equal(expected)
    assert [(edit.blocks.tolist(), edit.block_size) for edit in plan.edits] == [([1], 2)]
    assert plan.figures == {
        "a": {"filters": 2, "invalid_filters": 1, "reactivated_kernels": 1, "zero_kernels": 0},
    }
    assert plan.skipped == ()
    assert tensors["a.weight"].equal(two_filters()), "making a plan changed the weights"


def test_filters_of_a_transposed_convolution_lie_along_the_second_axis() -> None:
    tensors = {"a.weight": two_filters().transpose(0, 1).contiguous()}
    plan = make_plan(inputs([conv("a", filters=1)], tensors), HALF)
    expected = torch.tensor([[[[1.0, -1.0]], [[1.5, -0.5]]], [[[5.0, 5.0]], [[6.0, 6.0]]]]).transpose(0, 1)
    assert carried_out(tensors, plan)["a.weight"].equal(expected)
    (change,) = plan.changes()
    assert (change.dim, change.channels, change.positions.tolist()) == (1, 1, [0])


def test_what_is_recorded_of_a_transposed_convolution_is_its_outputs() -> None:
    # Of 3 inputs and 4 outputs, outputs 1 and 3 are weak.
    strength = torch.tensor([5.0, 1, 6, 2])[:, None, None]
    weight = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).add(1) * strength
    plan = make_plan(inputs([conv("a", filters=1)], {"a.weight": weight}), HALF)
    (change,) = plan.changes()
    assert (change.dim, change.channels, change.positions.tolist()) == (1, 2, [1, 3])
    assert set(torch.unravel_index(plan.edits[0].entries, weight.shape)[1].tolist()) == {1, 3}


def test_the_layout_in_memory_does_not_matter() -> None:
    weight = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    plans = [
        make_plan(inputs([conv("a")], {"a.weight": weight.contiguous(memory_format=layout)}), HALF)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    first, second = (carried_out({"a.weight": weight}, plan)["a.weight"] for plan in plans)
    assert first.equal(second)
    assert not first.equal(weight)


@pytest.mark.parametrize(
    ("progress", "expected"),
    # cos is 1, 1/2, 0, -1/2 and -1: the share is 0.1 times 1, 3/4, 1/2, 1/4 and 0.
    [(0, 0.1), (1 / 3, 0.075), (1 / 2, 0.05), (2 / 3, 0.025), (1, 0)],
)
def test_the_share_of_kernels_falls_like_a_cosine(progress: float, expected: float) -> None:
    assert annealed(0.1, progress) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("progress", "kernels"), [(0, 10), (1 / 3, 7), (0.5, 5), (0.9, 0), (1, 0)])
def test_fewer_kernels_are_scaled_later(progress: float, kernels: int) -> None:
    # One invalid filter of 20 kernels; at 0.9 the share 0.5 · 0.0245 of 20 kernels is 0.24 of a kernel.
    weight = torch.rand(2, 20, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    weight[1] += 9
    plan = make_plan(inputs([conv("a")], {"a.weight": weight}, progress=progress), HALF)
    if kernels:
        assert plan.figures["a"]["reactivated_kernels"] == kernels
        assert len(plan.edits) == 1
    else:
        assert plan.edits == ()
        (sentence,) = plan.skipped
        assert sentence.endswith("of an invalid filter's kernels is less than one kernel: a.")


def test_scaled_kernels_keep_the_ratios_of_their_weights_and_have_the_best_norm() -> None:
    weight = torch.randn(4, 10, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = make_plan(inputs([conv("a")], {"a.weight": weight}), HALF)
    after = carried_out({"a.weight": weight}, plan)["a.weight"]
    changed = (after != weight).flatten(2).any(2)
    assert changed.sum(1).tolist() in (
        [5, 5, 0, 0],
        [5, 0, 5, 0],
        [5, 0, 0, 5],
        [0, 5, 5, 0],
        [0, 5, 0, 5],
        [0, 0, 5, 5],
    )
    ratios = (after / weight).flatten(2)[changed]
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-12, atol=0)
    best = weight.abs().sum((2, 3)).amax(1, keepdim=True).expand(4, 10)[changed]
    torch.testing.assert_close(after.abs().sum((2, 3))[changed], best, rtol=1e-12, atol=0)


def test_a_kernel_of_zeros_stays_and_is_counted() -> None:
    weight = two_filters()
    weight[0, 1] = 0
    plan = make_plan(inputs([conv("a")], {"a.weight": weight}), HALF)
    assert plan.edits == ()
    assert plan.figures["a"]["zero_kernels"] == 1
    assert plan.figures["a"]["reactivated_kernels"] == 0
    assert plan.skipped == ("a: 1 of the invalid kernels stay, being all zero without ratios to keep.",)


def test_kernels_of_one_weight_are_ranked_but_not_scaled() -> None:
    # The filters of the 1×1 layer are the weakest of all and use up the share of the network.
    tensors = {"a.weight": two_filters(), "point.weight": torch.full((2, 9, 1, 1), 0.01)}
    plan = make_plan(inputs([conv("a"), conv("point")], tensors), KernelReactivationConfig(0.4, 0.5, 0.5))
    assert plan.edits == ()
    assert plan.skipped == ("Left alone, because a kernel of one weight has no ratios to keep: point.",)
    alone = make_plan(inputs([conv("a")], {"a.weight": two_filters()}), HALF)
    assert len(alone.edits) == 1


def test_filters_are_ranked_over_the_network_whatever_the_targets_are() -> None:
    tensors = {"a.weight": two_filters(), "b.weight": two_filters() / 100}
    layers = [conv("a"), conv("b")]
    # floor(0.3 · 4) = 1 filter, and it is b's.
    config = KernelReactivationConfig(alpha=0.3, beta=0.5, gamma=0.5)
    assert [edit.tensor for edit in make_plan(inputs(layers, tensors, targets=("b",)), config).edits] == ["b.weight"]
    assert make_plan(inputs(layers, tensors, targets=("a",)), config).edits == ()


def test_what_is_left_alone_is_said() -> None:
    tensors = {"up.weight": torch.rand(4, 3, 2, 2), "head.weight": torch.rand(5, 5), "head.bias": torch.rand(5)}
    layers = [computed("normed"), conv("up", filters=1, groups=2), linear("head"), computed("tied", convolution=False)]
    plan = make_plan(inputs(layers, tensors), HALF)
    assert plan.edits == ()
    assert plan.skipped == (
        "normed: left alone; its weight is computed from other tensors.",
        "up: left alone; the groups of a transposed convolution share an axis of the weight, so it does not count"
        " the filters.",
    )


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_shares_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"option {name} of kernel-reactivation is .* above 0 and below 1"):
        make_config(KERNEL_REACTIVATION, {name: value})


def test_a_share_that_is_no_number_is_refused() -> None:
    with pytest.raises(OptionError, match="option gamma of kernel-reactivation is nan"):
        KernelReactivationConfig(gamma=math.nan)


def test_a_period_of_no_epochs_is_refused() -> None:
    with pytest.raises(OptionError, match="option every of kernel-reactivation is 0"):
        make_config(KERNEL_REACTIVATION, {"every": 0})


def plain_loops(
    model: nn.Module, state: Mapping[str, torch.Tensor], alpha: int, beta: int, gamma: int
) -> dict[str, np.ndarray]:
    """Return the weights of all convolutions after kernel reactivation with shares in percent, by plain loops."""
    weights = {name: state[f"{name}.weight"].double().numpy().copy() for name in modules_of(model, nn.Conv2d)}
    means = [(np.abs(row).mean(), name, o) for name, weight in weights.items() for o, row in enumerate(weight)]
    ranking = sorted(means, key=lambda entry: entry[0])
    weakest = {(name, o) for _, name, o in ranking[: len(means) * alpha // 100]}
    for name, weight in weights.items():
        if weight.shape[2] * weight.shape[3] == 1:
            continue
        filters = sorted(range(len(weight)), key=lambda o: np.abs(weight[o]).sum())
        invalid = [o for o in filters[: len(filters) * beta // 100] if (name, o) in weakest]
        for o in invalid:
            norms = [np.abs(kernel).sum() for kernel in weight[o]]
            for i in sorted(range(len(norms)), key=lambda i: norms[i])[: len(norms) * gamma // 100]:
                weight[o, i] *= max(norms) / norms[i]
    return weights


LIGHT = ["mobilenetv2_100", "shufflenet_v2_x0_5", "efficientnet_b0"]


@pytest.mark.parametrize(
    ("name", "shares"), [*((name, (20, 30, 10)) for name in NAMES), *((name, (90, 60, 40)) for name in LIGHT)]
)
def test_real_networks_agree_with_plain_loops(name: str, shares: tuple[int, int, int]) -> None:
    model, graph = network(name)
    before = copied(model)
    expected = plain_loops(model, before, *shares)
    config = KernelReactivationConfig(*(share / 100 for share in shares))
    execute(model, make_plan(Inputs(graph, (), before), config))
    after = model.state_dict()
    scaled = 0
    for key, tensor in before.items():
        layer = key.removesuffix(".weight")
        if layer in expected:
            np.testing.assert_allclose(after[key].double().numpy(), expected[layer], rtol=1e-6, err_msg=key)
            assert (after[key] != tensor).equal(torch.from_numpy(expected[layer]) != tensor), key
            scaled += int((after[key] != tensor).sum())
        else:
            assert after[key].equal(tensor), key
    # The light networks' kernels of several weights are depthwise, or read three colours: 10 % of these are none.
    assert (scaled > 0) == (name not in LIGHT or shares[2] == 40)
