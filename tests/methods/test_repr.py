"""RePr: which filters are dropped, that they answer nothing, and how they start anew."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import surgeon
from surgeon.coupling import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Set
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.methods.base import Inputs, Phase
from surgeon.methods.repr import ReprConfig, check, make_plan, told

HOLD, FULL = Phase(1, "sub-network", True, 1), Phase(2, "full network", False, 0)
EXAMPLE = torch.zeros(1, 3, 9, 9)


class Small(nn.Module):
    """Every kind of layer: a BatchNorm of its own, grouped, depthwise, transposed, transposed in groups, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.up_grouped = nn.ConvTranspose2d(6, 8, 3, groups=2)
        self.hidden = nn.Linear(8, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.first(images)).relu()
        features = self.up(self.depthwise(self.grouped(features).relu()).relu()).relu()
        return self.head(self.hidden(self.up_grouped(features).relu().mean((2, 3))).relu())


def network(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    model = Small().eval()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.normal_()
        model.norm.running_mean.normal_()
    return model


def inputs(model: nn.Module, *targets: str, **others: Any) -> Inputs:
    return Inputs(trace(model, EXAMPLE), targets, model.state_dict(), 3, **others)


def replaced(model: nn.Module, plan: Plan) -> dict[str, Set]:
    """What the entries of a plan are before it is carried out, taken one by one."""
    found = {}
    for edit in plan.edits:
        assert isinstance(edit, Set)
        flat = model.state_dict()[edit.tensor].flatten()
        values = torch.tensor([float(flat[place]) for place in edit.entries.tolist()])
        found[edit.tensor] = Set(
            edit.tensor, edit.blocks, values, "", edit.filter_size, edit.columns, edit.block_size
        )  # fmt: skip
    return found


def filters_of(model: Small, name: str) -> Tensor:
    """The filters of a layer as rows, by the definition of each kind of convolution."""
    weight = getattr(model, name).weight.detach().double()
    if name == "up":
        return weight.transpose(0, 1).flatten(1)
    if name == "up_grouped":
        # Output channel 4 g + o reads the three input channels of group g.
        return torch.stack([weight[3 * (o // 4) : 3 * (o // 4) + 3, o % 4].flatten() for o in range(8)])
    return weight.flatten(1)


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (1, 2), bias=False)
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            rows = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [-1.0, 1.0]])
            self.conv.weight.copy_(rows.view(4, 1, 1, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)))


def test_the_filters_that_overlap_most_are_dropped() -> None:
    # By hand: |cosines| of rows 0 and 2 are 1, of both with row 3 and of row 1 with row 3 1/√2; so the sums over J are
    # (1 + 0.7071) / 4 = 0.4268 for rows 0 and 2, 0.1768 for row 1, and 3 · 0.7071 / 4 = 0.5303 for row 3.
    model = Twins()
    plan = make_plan(Inputs(trace(model, torch.zeros(1, 1, 4, 4)), (), model.state_dict()), ReprConfig(ratio=0.5))
    (edit,) = plan.edits
    assert isinstance(edit, Set)
    assert (edit.tensor, edit.blocks.tolist(), edit.values.tolist()) == ("conv.weight", [0, 3], [0.0])
    assert plan.figures == {"conv": {"dropped": 2, "filters": 4}}
    assert plan.skipped == ("head: its filters are left alone: they are the network's output.",)


def test_dropped_filters_answer_nothing_and_the_others_what_they_did() -> None:
    model = network()
    before = copy.deepcopy(model)
    plan = make_plan(
        inputs(model, "first", "grouped", "up", "up_grouped", "hidden"), ReprConfig(ratio=0.5, max_per_layer=0.5)
    )
    execute(model, plan)
    generator = torch.Generator().manual_seed(1)
    for name, norm, shape in (
        ("first", "norm", (2, 3, 9, 9)), ("grouped", "", (2, 8, 5, 5)), ("up", "", (2, 8, 4, 4)),
        ("up_grouped", "", (2, 6, 4, 4)), ("hidden", "", (2, 8)),
    ):  # fmt: skip
        given = torch.randn(shape, generator=generator)
        now, then = getattr(model, name)(given), getattr(before, name)(given)
        if norm:
            now, then = getattr(model, norm)(now), getattr(before, norm)(then)
        gone = (filters_of(model, name) == 0).all(1)
        assert int(gone.sum()) == plan.figures[name]["dropped"] > 0
        assert not now[:, gone].any()
        assert torch.equal(now[:, ~gone], then[:, ~gone])


def test_new_filters_are_orthogonal_to_the_kept_ones_and_to_their_own_past() -> None:
    model = network()
    targets = ("first", "grouped", "up", "up_grouped", "hidden")
    known = inputs(model, *targets)
    plan = make_plan(known.at(HOLD), ReprConfig(ratio=0.4, max_per_layer=0.5))
    past = {name: filters_of(model, name) for name in targets}
    before = replaced(model, plan)
    execute(model, plan)
    with torch.no_grad():
        # What is trained meanwhile.
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape))
    trained = {name: filters_of(model, name) for name in targets}
    again = make_plan(inputs(model, *targets).at(FULL, before), ReprConfig(scale=0.5))
    execute(model, again)
    assert set(again.figures) == {name for name in targets if plan.figures[name]["dropped"]}
    for name, figures in again.figures.items():
        gone = (trained[name] == 0).all(1)
        assert int(gone.sum()) == figures["renewed"]
        now, kept = filters_of(model, name), trained[name][~gone]
        assert torch.equal(now[~gone], kept)
        new = now[gone]
        length = 0.5 * kept.norm(dim=1).mean()
        torch.testing.assert_close(new.norm(dim=1), length.expand(len(new)), rtol=1e-6, atol=0)
        assert figures["norm"] == pytest.approx(float(length))
        own = functional.cosine_similarity(new, past[name][gone])
        assert own.abs().max() < 1e-6
        others = functional.normalize(new) @ functional.normalize(kept).T
        assert others.abs().max() < 1e-6
        # They are of what the weight holds, in its precision.
        assert figures["cosine_to_kept"] == pytest.approx(float(others.abs().max()), rel=1e-6)
        assert figures["cosine_to_past"] == pytest.approx(float(own.abs().max()), rel=1e-6)


def test_a_batch_norm_of_its_own_starts_anew_where_a_filter_does() -> None:
    model = network()
    plan = make_plan(inputs(model, "first").at(HOLD), ReprConfig(ratio=0.5))
    before = replaced(model, plan)
    execute(model, plan)
    gone = model.norm.weight.detach() == 0
    kept = {key: tensor[~gone].clone() for key, tensor in model.norm.state_dict().items() if tensor.dim()}
    execute(model, make_plan(inputs(model, "first").at(FULL, before), ReprConfig()))
    for key, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
        assert model.norm.state_dict()[key][gone].tolist() == [value] * 4
        assert torch.equal(model.norm.state_dict()[key][~gone], kept[key])
    assert not model.first.bias[gone].any()


def test_a_norm_that_two_layers_have_is_left_alone_and_told() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head((self.norm(self.one(images)) + self.norm(self.two(images))).mean((2, 3)))

    plan = make_plan(inputs(Shared(), "one"), ReprConfig(ratio=0.5))
    assert {change.tensor for change in plan.changes()} == {"one.weight", "one.bias"}
    assert "The BatchNorm of one: another layer has it too." in plan.skipped


def test_frozen_layers_and_what_is_not_selected_take_no_part() -> None:
    model = network()
    plan = make_plan(inputs(model, frozen={"first.weight"}), ReprConfig(ratio=0.9))
    tensors = {change.tensor for change in plan.changes()}
    assert not tensors & {"first.weight", "norm.weight", "hidden.weight", "head.weight"}
    assert "first: its filters are left alone: first.weight would not learn, as it is frozen." in plan.skipped


@pytest.mark.parametrize("key", ["first.bias", "norm.weight", "norm.bias"])
def test_a_layer_with_a_frozen_bias_or_norm_takes_no_part(key: str) -> None:
    plan = make_plan(inputs(network(), frozen={key}), ReprConfig(ratio=0.9))
    assert not {change.tensor for change in plan.changes()} & {"first.weight", "first.bias", "norm.weight", "norm.bias"}
    assert f"first: its filters are left alone: {key} would not learn, as it is frozen." in plan.skipped


def test_a_norm_without_a_scale_answers_nothing_either() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    model[1].running_mean.normal_()
    execute(model, make_plan(inputs(model, "0"), ReprConfig(ratio=0.5)))
    gone = ~model[0].weight.detach().flatten(1).any(1)
    assert int(gone.sum()) == 3
    assert not model[:2](torch.randn(2, 3, 5, 5))[:, gone].any()


class Dense(nn.Module):
    """A convolution whose channels are normalized only behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images).relu()
        return self.head(self.norm(torch.cat([stem, self.conv(stem)], 1)).relu().mean((2, 3)))


class Stream(nn.Module):
    """Two convolutions that write one stream, each with a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.two, self.norm_two = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.norm_one(self.one(images)) + self.norm_two(self.two(images))).relu().mean((2, 3)))


class Deep(nn.Module):
    """A depthwise convolution with a BatchNorm behind another convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.deep, self.norm_deep = nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm_deep(self.deep(self.norm_one(self.one(images)).relu())).relu().mean((2, 3)))


def test_shifts_that_answer_in_the_place_of_dropped_filters_are_told() -> None:
    plan = make_plan(inputs(Deep(), "one"), ReprConfig(ratio=0.5))
    assert plan.skipped == ("deep.bias, norm_deep.bias: behind dropped filters of one, to answer in their place.",)
    plan = make_plan(inputs(Dense(), "conv"), ReprConfig(ratio=0.5))
    assert "norm.bias: behind dropped filters of conv, to answer in their place." in plan.skipped
    assert not make_plan(inputs(Stream(), "one"), ReprConfig(ratio=0.5)).skipped


def test_the_figures_of_half_precision_are_those_of_its_rounded_weights() -> None:
    model = network().to(torch.bfloat16)
    known = Inputs(trace(network(), EXAMPLE), ("first",), model.state_dict(), 3)
    plan = make_plan(known.at(HOLD), ReprConfig(ratio=0.5))
    before = replaced(model, plan)
    execute(model, plan)
    kept = filters_of(model, "first")[model.norm.weight.detach() != 0]
    again = make_plan(Inputs(known.graph, ("first",), model.state_dict()).at(FULL, before), ReprConfig())
    execute(model, again)
    new = filters_of(model, "first")[4 - 4 :][(filters_of(model, "first")[:, None] != kept).any(2).all(1)]
    cosines = functional.normalize(new) @ functional.normalize(kept).T
    assert again.figures["first"]["cosine_to_kept"] == pytest.approx(float(cosines.abs().max()), rel=1e-9)
    assert again.figures["first"]["cosine_to_kept"] > 1e-6


def test_no_layer_loses_more_than_it_may() -> None:
    plan = make_plan(inputs(network()), ReprConfig(ratio=0.9, max_per_layer=0.9))
    counts = {name: (figures["dropped"], figures["filters"]) for name, figures in plan.figures.items()}
    # 9/10 of 8 and 6 filters, rounded down; of all 38 filters 34 were asked for.
    assert counts == {name: ((5, 6) if name == "up" else (7, 8)) for name in counts}
    assert plan.skipped[-1] == "1 of the 34 filters that ratio asks for are kept: no layer may lose more."


def test_layers_whose_kept_filters_are_dead_take_the_norm_of_the_past() -> None:
    model = Twins()
    plan = make_plan(
        Inputs(trace(model, torch.zeros(1, 1, 4, 4)), (), model.state_dict()).at(HOLD), ReprConfig(ratio=0.5)
    )
    before = replaced(model, plan)
    with torch.no_grad():
        model.conv.weight.zero_()
    new = make_plan(
        Inputs(trace(model, torch.zeros(1, 1, 4, 4)), (), model.state_dict()).at(FULL, before), ReprConfig()
    )
    # Rows 0 and 3 had the norms 1 and √2.
    assert new.figures["conv"]["norm"] == pytest.approx((1 + 2**0.5) / 2)


def test_a_user_is_told_where_most_is_dropped_and_where_no_direction_is_free() -> None:
    figures = {
        name: {"dropped": dropped, "filters": 8} for name, dropped in zip("abcdef", (8, 4, 5, 6, 7, 5), strict=True)
    }
    assert told(Plan("repr", {}, (), (), figures)) == (
        "Most of a layer's filters are dropped in a (8 of 8), e (7 of 8), d (6 of 8), c (5 of 8) and 1 more; "
        "--max-per-layer bounds that."
    )
    assert told(Plan("repr", {}, (), (), {"a": {"dropped": 4, "filters": 8}})) == ""
    cosines = {"a": (1e-8, 1e-9), "b": (0.1, 0.68), "c": (0.2, 0.0)}
    figures = {name: {"cosine_to_kept": kept, "cosine_to_past": past} for name, (kept, past) in cosines.items()}
    assert told(Plan("repr", {}, (), (), figures)) == (
        "In 2 of 3 layers the kept filters leave no direction free, and the least covered ones were taken: "
        "the largest cosine is 0.68, in b."
    )
    assert told(Plan("repr", {}, (), (), {"a": figures["a"]})) == ""


def test_bad_input() -> None:
    for name, value in (
        ("ratio", 0.0),
        ("ratio", 1.0),
        ("max_per_layer", 0.0),
        ("scale", 0.0),
        ("scale", float("nan")),
    ):
        with pytest.raises(OptionError, match=f"The option {name} of repr"):
            ReprConfig(**{name: value})
    with pytest.raises(OptionError, match=r"no layer may lose more than max_per_layer, 0\.5"):
        ReprConfig(ratio=0.6, max_per_layer=0.5)
    with pytest.raises(DataError, match="criterion oracle is measured on images"):
        make_plan(inputs(network()), ReprConfig(criterion="oracle"))
    with pytest.raises(OptionError, match=r"A ratio of 0\.01 of 8 filters"):
        check(inputs(network(), "first"), ReprConfig(ratio=0.01))
    with pytest.raises(LayerError, match="the network's output"):
        check(inputs(network(), "head"), ReprConfig())
    # What is measured later is not missed.
    check(inputs(network()), ReprConfig(criterion="oracle"))


def test_it_is_a_plan_like_others_until_a_schedule_takes_it() -> None:
    model = network()
    plan = surgeon.plan(model, "repr", ["first"], example_input=EXAMPLE, ratio=0.25)
    assert [change.what for change in plan.changes()] == ["dropped"] * 4
    assert surgeon.plan(model, "repr", ["first"], example_input=EXAMPLE, ratio=0.25, criterion="random").edits
