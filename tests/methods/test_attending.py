"""Cross-attention between surviving and rejuvenated channels: where it is put, and what the network computes then."""

import copy
from typing import Any

import pytest
import torch
from test_neural_rejuvenation import DEAD, Chain, Excited, Grouped, Residual, inputs, kill, network
from torch import nn

from surgeon.edit.execute import execute
from surgeon.edit.plan import Attend, Plan, Set, changes
from surgeon.edit.plan_file import encode
from surgeon.errors import LayerError, PlanError
from surgeon.methods.neural_rejuvenation import NO_ATTENTION, NeuralRejuvenationConfig, make_plan
from surgeon.structure import CrossAttentionConv2d, CrossSets, attend, attendable, structure_of

ATTEND = NeuralRejuvenationConfig(cross="attend")
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def planned(model: nn.Module, config: NeuralRejuvenationConfig = ATTEND, **others: Any) -> Plan:
    names = [name for name, module in model.named_modules() if attendable(module)]
    return make_plan(inputs(model, attendable=names, **others), config)


def attending(plan: Plan) -> dict[str, CrossSets]:
    return {edit.module: edit.sets for edit in plan.edits if isinstance(edit, Attend)}


def test_the_layers_that_would_lose_their_connections_attend_instead() -> None:
    model = network(Chain)
    kill(model, **DEAD[Chain])
    plan = planned(model)
    # The first layer reads the image, the depthwise one writes no channels of its own, the classifier no new ones.
    assert attending(plan) == {"two": CrossSets(written=(0, 5, 7), read=(1, 4))}
    assert not any(edit.held for edit in plan.edits if isinstance(edit, Set))
    other = planned(model, NeuralRejuvenationConfig())
    assert attending(other) == {}
    assert [change.tensor for change in other.changes()] == [c.tensor for c in plan.changes()][: len(other.changes())]


def test_it_computes_what_the_convolution_does_until_something_is_learnt() -> None:
    model = network(Chain)
    kill(model, **DEAD[Chain])
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    execute(plain, planned(model, NeuralRejuvenationConfig()))
    execute(other, planned(model))
    assert isinstance(other.two, CrossAttentionConv2d)
    assert structure_of(other).attention == {"two": CrossSets((0, 5, 7), (1, 4))}
    assert not structure_of(plain)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in other.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(other(IMAGES), plain(IMAGES), rtol=1e-12, atol=1e-12)
        for one in (other, plain):
            one.two.weight[1, 1] = 50.0
        assert not torch.allclose(other(IMAGES), plain(IMAGES), rtol=1e-3)


def test_what_cannot_attend_keeps_its_connections_and_is_listed() -> None:
    model = network(Grouped)
    kill(model, **{**DEAD[Grouped], "norm_three": [0, 2]})
    plan = planned(model)
    # A grouped transposed convolution, and behind it a plain one.
    assert list(attending(plan)) == ["last"]
    assert [text.partition(":")[0] for text in plan.skipped] == ["three"]
    assert "as before" in plan.skipped[0]
    execute(model, plan)
    assert not any(edit.held for edit in plan.edits if isinstance(edit, Set))


def test_a_convolution_of_a_class_of_its_own_keeps_its_connections() -> None:
    model = network(Chain)
    kill(model, **DEAD[Chain])
    plan = make_plan(inputs(model, attendable=["one"]), ATTEND)
    assert attending(plan) == {}
    assert [text.partition(":")[0] for text in plan.skipped] == ["two"]


def test_a_gate_is_no_place_for_attention() -> None:
    model = network(Excited)
    kill(model, **DEAD[Excited])
    assert list(attending(planned(model))) == ["two"]


def test_it_is_told_where_there_is_no_place_for_it() -> None:
    model = network(Residual)
    kill(model, norm_one=[0, 3])
    plan = planned(model)
    assert attending(plan) == {}
    assert plan.skipped[-1] == NO_ATTENTION


def test_dead_channels_beside_attention_are_left_alone_and_listed() -> None:
    model = network(Grouped)
    attend(model, "last", CrossSets((0,), (1, 4)))
    kill(model, norm_one=[1, 4], norm_side=[0, 2, 3], norm_last=[1])
    plan = planned(model)
    assert list(plan.figures) == ["one"]
    listed = [text for text in plan.skipped if " dead channels " in text]
    assert [text.partition(" dead")[0] for text in listed] == ["norm_side: 3", "norm_last: 1"]
    assert listed[0].endswith("are left alone: In last, aten.index_select fixes the positions.")
    chain = network(Chain)
    attend(chain, "two", CrossSets((0, 5, 7), (1, 4)))
    kill(chain, norm_one=[1, 4], norm_deep=[1, 4])
    with pytest.raises(LayerError, match="There are no channels to rejuvenate") as error:
        planned(chain)
    assert "norm_one: 2 dead channels" in error.value.problem
    with pytest.raises(LayerError) as error:
        make_plan(inputs(chain, "head"), ATTEND)
    assert "dead channels" not in error.value.problem


def test_only_the_last_rejuvenation_brings_it() -> None:
    model = network(Chain)
    kill(model, **DEAD[Chain])
    assert attending(planned(model, last=False)) == {}


def test_plans_say_what_attends_and_are_not_kept_in_files() -> None:
    model = network(Chain)
    edit = Attend("two", CrossSets((0, 5, 7), (1, 4)))
    rows = [(one.tensor, one.dim, one.positions.tolist(), one.channels) for one in changes(edit)]
    assert rows == [("two.weight", 0, [0, 5, 7], 3), ("two.weight", 1, [1, 4], 2)]
    with pytest.raises(PlanError, match="not kept in files"):
        encode(Plan("neural-rejuvenation", {}, (), (edit,)))
    for name, sets, problem in (
        ("three", CrossSets((0,), (0,)), "no plain convolution"),
        ("deep", CrossSets((0,), (0,)), "no plain convolution"),
        ("head", CrossSets((0,), (0,)), "no plain convolution"),
        ("two", CrossSets((0, 8), (1,)), "does not fit its 8 channels"),
        ("two", CrossSets((0,), ()), "does not fit its 6 channels"),
        ("two", CrossSets(tuple(range(8)), (1,)), "does not fit its 8 channels"),
        ("two", CrossSets((0,), (1, 1)), "does not fit its 6 channels"),
        ("two", CrossSets((-1,), (1,)), "does not fit its 8 channels"),
    ):
        with pytest.raises(PlanError, match=problem):
            execute(model, Plan("neural-rejuvenation", {}, (), (Attend(name, sets),)))
    assert type(model.two) is nn.Conv2d
