"""Which filters `reinit` starts anew, and that it touches nothing else."""

import copy
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import timm
import torch
from torch import nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.measure.criteria import CRITERIA
from surgeon.methods.base import Inputs
from surgeon.methods.reinit import REINIT, ReinitConfig, choose, make_plan

IMAGES = (2, 2, 6, 6)


class Small(nn.Module):
    """A norm of its own, a norm that two layers share, a layer without, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.left = nn.Conv2d(4, 6, 1)
        self.right = nn.Conv2d(4, 6, 1)
        self.shared = nn.BatchNorm2d(6)
        self.bare = nn.Conv2d(6, 5, 1)
        self.hidden = nn.Linear(5, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.first(images)).relu()
        both = self.shared(self.left(features)) + self.shared(self.right(features))
        return self.head(self.hidden(self.bare(both.relu()).mean((2, 3))).relu())


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    network = Small().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 1.5 if "norm" in name or "shared" in name else tensor + 2)
    return network


@pytest.fixture
def graph(model: Small) -> CouplingGraph:
    return trace(model, torch.zeros(IMAGES))


def inputs_of(model: nn.Module, graph: CouplingGraph, *targets: str, **more: object) -> Inputs:
    return Inputs(graph, targets, model.state_dict(), **more)


def renewed(plan: Plan) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for edit in plan.edits:
        found.setdefault(edit.group.name, []).extend(edit.channels.tolist())
    return found


def test_the_options_are_the_table_of_criteria() -> None:
    assert get_args(get_type_hints(ReinitConfig)["criterion"]) == tuple(CRITERIA)
    assert {name for name in CRITERIA if REINIT.measures(ReinitConfig(criterion=name))} == {
        "activation", "apoz", "taylor", "oracle",
    }  # fmt: skip
    assert not REINIT.needs_data


@pytest.mark.parametrize("values", [{"ratio": 0}, {"ratio": 1.0}, {"max_per_layer": 1.0}, {"every": 0}])
def test_values_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=f"The option {next(iter(values))} of reinit is"):
        ReinitConfig(**values)


def test_ranking_is_over_all_layers_together() -> None:
    strengths = {"a": torch.tensor([5.0, 1.0, 9.0, 8.0]), "b": torch.tensor([2.0, 7.0, 3.0, 6.0])}
    chosen = choose(strengths, 0.5, 0.9)
    assert {name: filters.tolist() for name, filters in chosen.items()} == {"a": [0, 1], "b": [0, 2]}


def test_a_layer_keeps_its_share_and_the_next_take_its_place() -> None:
    strengths = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([9.0, 7.0, 8.0, 6.0]), "c": torch.ones(1)}
    # floor(0.6 · 9) = 5, of which a may give floor(0.75 · 4) = 3 and c, with its only filter, none.
    chosen = choose(strengths, 0.6, 0.75)
    assert {name: filters.tolist() for name, filters in chosen.items()} == {"a": [0, 1, 2], "b": [1, 3], "c": []}


def test_of_equals_the_earlier_goes_and_nan_never() -> None:
    chosen = choose({"a": torch.tensor([2.0, 1.0, 1.0]), "b": torch.tensor([1.0, float("nan"), 1.0])}, 0.34, 0.9)
    assert {name: filters.tolist() for name, filters in chosen.items()} == {"a": [1, 2], "b": []}
    assert choose({"a": torch.full((100,), 3.0)}, 0.29, 0.9)["a"].tolist() == list(range(29))


def test_weak_filters_by_weight(model: Small, graph: CouplingGraph) -> None:
    with torch.no_grad():
        model.first.weight[2] = 0.01
        model.bare.weight[[1, 4]] = 0.02
    # floor(0.15 · (4 + 6 + 6 + 5)) = 3
    plan = make_plan(inputs_of(model, graph), ReinitConfig(criterion="l1", ratio=0.15))
    assert renewed(plan) == {"first": [2], "bare": [1, 4]}
    assert plan.figures["bare"] == {"renewed": 2, "filters": 5}
    assert plan.figures["left"] == {"renewed": 0, "filters": 6}
    assert set(plan.figures) == {"first", "left", "right", "bare"}
    assert sorted(sentence.partition(":")[0] for sentence in plan.skipped) == ["head", "hidden"]


def test_overlapping_filters_go_first(model: Small, graph: CouplingGraph) -> None:
    with torch.no_grad():
        model.bare.weight.copy_(torch.eye(6)[:5, :, None, None])
        model.bare.weight[3] = model.bare.weight[0]
    plan = make_plan(inputs_of(model, graph, "bare"), ReinitConfig(criterion="ortho", ratio=0.4))
    assert renewed(plan) == {"bare": [0, 3]}


def test_weak_filters_by_scale_need_a_norm_of_their_own(model: Small, graph: CouplingGraph) -> None:
    with torch.no_grad():
        model.norm.weight[3] = -0.1
    plan = make_plan(inputs_of(model, graph), ReinitConfig(criterion="gamma", ratio=0.3))
    assert renewed(plan) == {"first": [3]}
    alone = {sentence.partition(":")[0] for sentence in plan.skipped if "no BatchNorm scale of their own" in sentence}
    assert alone == {"left", "right", "bare"}


def test_scale_without_any_norm_says_what_works(model: Small, graph: CouplingGraph) -> None:
    with pytest.raises(LayerError, match="BatchNorm") as caught:
        make_plan(inputs_of(model, graph, "bare"), ReinitConfig(criterion="gamma"))
    assert "ortho, l1, l2, random, or with --data activation, apoz, taylor, oracle" in str(caught.value)


def test_measured_scores_decide_and_their_weak_end(model: Small, graph: CouplingGraph) -> None:
    scores = {"first": torch.tensor([0.1, 0.9, 0.2, 0.3]), "bare": torch.tensor([0.5, 0.4, 0.8, 0.6, 0.7])}
    inputs = inputs_of(model, graph, scores=scores)
    assert renewed(make_plan(inputs, ReinitConfig(criterion="apoz", ratio=0.25))) == {"first": [1], "bare": [2]}
    plan = make_plan(inputs, ReinitConfig(criterion="oracle", ratio=0.25))
    assert renewed(plan) == {"first": [0, 2]}
    assert any("left: " in sentence and "oracle was not measured" in sentence for sentence in plan.skipped)
    with pytest.raises(DataError, match="measured on images"):
        make_plan(inputs_of(model, graph), ReinitConfig(criterion="taylor"))


def test_chance_follows_the_seed(model: Small, graph: CouplingGraph) -> None:
    plans = [
        make_plan(inputs_of(model, graph, seed=seed), ReinitConfig(criterion="random", ratio=0.5)) for seed in (1, 1, 2)
    ]
    assert renewed(plans[0]) == renewed(plans[1]) != renewed(plans[2])
    assert sum(map(len, renewed(plans[0]).values())) == 10


def test_linear_layers_take_part_when_named_but_the_classifier_never(model: Small, graph: CouplingGraph) -> None:
    plan = make_plan(inputs_of(model, graph, "hidden"), ReinitConfig(ratio=0.3))
    assert {name: len(filters) for name, filters in renewed(plan).items()} == {"hidden": 3}
    with pytest.raises(LayerError, match="head: its filters are left alone: they are the network's output"):
        make_plan(inputs_of(model, graph, "head"), ReinitConfig())


class Classes(nn.Module):
    """A classifier of convolutions, and something that is done with its logits."""

    def __init__(self, finish: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head, self.finish = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 1), finish

    def forward(self, images: torch.Tensor) -> Any:
        return self.finish(self.head(self.body(images).relu()).mean((2, 3)))


@pytest.mark.parametrize(
    "finish",
    [
        lambda logits: logits,
        lambda logits: logits.flip(1),
        lambda logits: logits[:, [2, 0, 1, 4, 3]],
        lambda logits: logits * torch.arange(5),
        lambda logits: (logits, logits.topk(2).indices),
        lambda logits: (logits.topk(2).values, logits),
    ],
    ids=["plain", "flip", "permuted", "arange", "topk beside", "topk first"],
)
def test_filters_of_the_classes_stay_whatever_is_done_with_the_logits(finish: Callable[[torch.Tensor], Any]) -> None:
    model = Classes(finish).eval()
    plan = make_plan(inputs_of(model, trace(model, torch.zeros(IMAGES))), ReinitConfig(ratio=0.5))
    assert set(renewed(plan)) == {"body"}
    assert "head: its filters are left alone: they are the network's output." in plan.skipped


def test_groups_that_are_left_alone_stay(model: Small, graph: CouplingGraph) -> None:
    (group,) = graph.at("first")
    plan = make_plan(inputs_of(model, graph, left_alone={group: "they are frozen"}), ReinitConfig(ratio=0.3))
    assert "first" not in renewed(plan)
    assert any("first: its filters are left alone: they are frozen" in sentence for sentence in plan.skipped)


def test_exactly_the_filters_own_entries_change(model: Small, graph: CouplingGraph) -> None:
    with torch.no_grad():
        model.first.weight[[0, 2]] = 0.1
        model.left.weight[5] = 0.1
        model.hidden.weight[7] = 0.1
    before = copy.deepcopy(model.state_dict())
    inputs = inputs_of(model, graph, "first", "left", "right", "hidden")
    plan = make_plan(inputs, ReinitConfig(ratio=0.16))
    assert renewed(plan) == {"first": [0, 2], "left": [5], "hidden": [7]}
    assert "The BatchNorm of left: another layer has it too." in plan.skipped
    execute(model, plan)
    expected = {
        "first.weight": [0, 2], "norm.weight": [0, 2], "norm.bias": [0, 2], "norm.running_mean": [0, 2],
        "norm.running_var": [0, 2], "left.weight": [5], "left.bias": [5], "hidden.weight": [7], "hidden.bias": [7],
    }  # fmt: skip
    changed = {}
    for key, tensor in model.state_dict().items():
        different = tensor != before[key]
        if different.any():
            changed[key] = different.reshape(len(tensor), -1).any(1).nonzero().flatten().tolist()
    assert changed == expected
    assert model.norm.weight[[0, 2]].tolist() == [1, 1]
    assert model.norm.bias[[0, 2]].tolist() == [0, 0]
    assert model.norm.running_mean[[0, 2]].tolist() == [0, 0]
    assert model.norm.running_var[[0, 2]].tolist() == [1, 1]
    # PyTorch starts a convolution within 1 / sqrt(fan in); the present weights are above that.
    assert model.first.weight[[0, 2]].abs().max() <= 1 / 18**0.5
    assert not torch.equal(model.first.weight[0], model.first.weight[2])


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=groups), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)).eval()
    model = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0][0].weight.add_(2)
        model[0][1].weight.copy_(torch.tensor([3.0, 3, 0.1, 3, 0.1, 3]))
    before = copy.deepcopy(model[0][0].weight)
    graph = trace(model, torch.zeros(2, 4, 5, 5))
    plan = make_plan(inputs_of(model, graph, "0.0"), ReinitConfig(criterion="gamma", ratio=0.34))
    execute(model, plan)
    channels = (model[0][0].weight != before).reshape(groups, 4 // groups, 6 // groups, -1)
    assert channels.all(3).all(1).flatten().nonzero().flatten().tolist() == [2, 4]
    assert channels.any(3).any(1).flatten().nonzero().flatten().tolist() == [2, 4]
    assert model[0][1].weight.tolist() == [3, 3, 1, 3, 1, 3]


def test_weights_that_are_computed_are_listed() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1)), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(),
        nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    graph = trace(model, torch.zeros(IMAGES))
    plan = make_plan(inputs_of(model, graph), ReinitConfig(ratio=0.5))
    assert set(renewed(plan)) == {"2"}
    assert any(sentence.startswith("0") and "computed from other tensors" in sentence for sentence in plan.skipped)
    assert any(sentence.startswith("4: ") and "the network's output" in sentence for sentence in plan.skipped)


@pytest.mark.parametrize("criterion", ["ortho", "l2", "gamma"])
def test_a_real_network(criterion: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_050").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    plan = make_plan(inputs_of(model, trace(model)), ReinitConfig(criterion=criterion, ratio=0.3))
    chosen, total = (sum(figures[name] for figures in plan.figures.values()) for name in ("renewed", "filters"))
    convolutions = sum(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    assert total == convolutions
    assert chosen == int(0.3 * total)
    assert all(figures["renewed"] < figures["filters"] for figures in plan.figures.values())
    execute(model, plan)
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
