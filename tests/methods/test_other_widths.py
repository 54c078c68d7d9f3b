"""Neural rejuvenation with reallocation: widths, what they cost, what survives bit for bit, and what cannot be."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_neural_rejuvenation import DEAD, EXAMPLE, Chain, Excited, Grouped, Residual, kill, network
from torch import Tensor, nn

from surgeon.coupling import trace
from surgeon.edit.plan import Plan, Reinitialize, Resize, Set
from surgeon.edit.plan_file import encode
from surgeon.errors import LayerError, OptionError, PlanError
from surgeon.measure.utilization import utilization
from surgeon.methods import METHODS
from surgeon.methods.neural_rejuvenation import NeuralRejuvenationConfig, check, make_plan
from surgeon.methods.resizing import ALLOCATION
from surgeon.operate.carrying import carried_out
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject, plain_inputs
from surgeon.progress import no_progress
from surgeon.structure import CrossAttentionConv2d, structure_of

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def subject_of(model: nn.Module, **options: Any) -> Subject:
    config = NeuralRejuvenationConfig(**{"in_place": False, **options})
    method, example = METHODS["neural-rejuvenation"], EXAMPLE.double()
    graph = trace(model, example)
    return Subject(
        model, method, config, graph, None, torch.device("cpu"), no_progress, lambda text: None, (), example
    )  # fmt: skip


def planned(subject: Subject, *targets: str) -> Plan:
    return make_plan(plain_inputs(subject, targets, 3, {}), subject.config)


def dying(kind: Callable[[], nn.Module], **others: list[int]) -> nn.Module:
    model = network(kind)
    kill(model, **(others or DEAD[kind]))
    for name in others or DEAD[kind]:
        norm = model.get_submodule(name)
        with torch.no_grad():
            # Not even the next to nothing of a dead channel passes.
            norm.weight[norm.weight.abs() < 0.01] = 0.0
    return model


def parameters(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def test_a_chain_by_hand() -> None:
    # 29a + 2a + 9a + 2a + ... : with widths a and b there are 27a + 2a + 9a + 2a + ab + 2b + 4b + 4 parameters.
    def count(a: int, b: int) -> int:
        return 40 * a + a * b + 6 * b + 4

    model = dying(Chain)
    assert parameters(model) == count(6, 8) == 340
    subject = subject_of(model)
    plan = planned(subject)
    # From (4, 5) with one rate: (5, 7) from 1.3 costs 281, (6, 7) 328 from 1.375, (6, 8) 340 from 1.5, (7, 8) too much.
    assert plan.figures == {
        ALLOCATION: {"target": "params", "rate": 1.625, "found": 340, "before": 340, "after": 340, "budget": 340},
        "one": {"channels": 6, "dropped": 2, "rejuvenated": 2, "width": 6},
        "two": {"channels": 8, "dropped": 3, "rejuvenated": 3, "width": 8},
    }
    half = planned(subject_of(dying(Chain), resource=0.7))
    # 238 are allowed: (4, 5) costs 214, (4, 6) 224 from 1.1, (5, 6) 270 from 1.125; (4, 7) costs 234.
    assert half.figures[ALLOCATION]["budget"] == 238
    assert half.figures[ALLOCATION]["after"] == count(4, 7) == 234
    assert half.figures["one"] == {"channels": 6, "dropped": 2, "rejuvenated": 0, "width": 4}
    assert half.figures["two"] == {"channels": 8, "dropped": 3, "rejuvenated": 2, "width": 7}


@pytest.mark.parametrize("kind", DEAD)
@pytest.mark.parametrize("options", [{}, {"cross": "remove", "rescale": True}, {"cross": "attend", "resource": 0.9}])
def test_the_network_computes_what_it_did_and_costs_what_was_said(
    kind: type[nn.Module], options: dict[str, Any]
) -> None:
    model = dying(kind)
    with torch.no_grad():
        before = model(IMAGES)
    subject = subject_of(model, include_residual=True, target="flops", **options)
    plan = planned(subject)
    done = carried_out(subject, plan, Course(), 5)
    assert [type(edit) for edit in plan.edits] == [Resize]
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-9, atol=1e-9)
    figures = done.figures[ALLOCATION]
    assert utilization(subject.graph, model.state_dict(keep_vars=True)).flops == figures["after"] <= figures["budget"]
    assert figures["budget"] == int(options.get("resource", 1.0) * figures["before"])
    assert figures["after"] > 0.9 * figures["budget"]
    # Everything that is new can learn to be of use, as in place.
    held = {edit.tensor: edit for edit in done.edits if isinstance(edit, Set) and edit.held}
    assert bool(held) <= (options.get("cross") == "remove")
    attention = [name for name, module in model.named_modules() if isinstance(module, CrossAttentionConv2d)]
    assert attention == list(structure_of(model).attention)
    assert bool(attention) <= (options.get("cross") == "attend")


def test_survivors_stay_and_new_channels_read_new_ones_alone() -> None:
    model = dying(Chain)
    before = copy.deepcopy(model)
    subject = subject_of(model, cross="remove", initial=0.5)
    done = carried_out(subject, planned(subject), Course(), 5)
    old, sooner = [0, 2, 3, 5], [1, 2, 3, 4, 6]
    two, then = model.two.weight.detach()[:, :, 0, 0], before.two.weight.detach()[:, :, 0, 0]
    assert torch.equal(two[:5, :4], then[sooner][:, old])
    assert not two[:5, 4:].any()
    assert not two[5:, :4].any()
    assert two[5:, 4:].all()
    assert torch.equal(model.one.weight[:4], before.one.weight[old])
    assert model.one.weight[4:].all()
    assert not model.head.weight[:, 5:].any()
    assert torch.equal(model.head.weight[:, :5], before.head.weight[:, sooner])
    for norm, kept in (("norm_one", old), ("norm_deep", old), ("norm_two", sooner)):
        own, earlier = model.get_submodule(norm), before.get_submodule(norm)
        assert torch.equal(own.weight[: len(kept)], earlier.weight[kept])
        assert own.weight[len(kept) :].tolist() == [0.5] * (len(own.weight) - len(kept))
        assert own.running_var[len(kept) :].tolist() == [1.0] * (len(own.weight) - len(kept))
    # The zeros of the classifier are their way out, and are learnt.
    assert {edit.tensor for edit in done.edits if isinstance(edit, Set) and edit.held} == {"two.weight"}


class Viewed(Chain):
    """A chain with a number of channels that its forward pass has by heart."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm_one(self.one(images)).relu()
        features = self.norm_deep(self.deep(features)).relu()
        return self.head(self.norm_two(self.two(features)).relu().mean((2, 3), keepdim=True).view(-1, 8))


def test_what_cannot_have_another_width_starts_anew_in_its_place() -> None:
    model = dying(Viewed, **DEAD[Chain])
    before = copy.deepcopy(model)
    subject = subject_of(model)
    plan = planned(subject)
    assert [text.partition(":")[0] for text in plan.skipped] == ["two"]
    assert "its width stays, and dead channels start anew in it." in plan.skipped[0]
    done = carried_out(subject, plan, Course(), 5)
    assert done.figures["one"] == {"channels": 6, "dropped": 2, "rejuvenated": 2, "width": 6}
    assert done.figures["two"] == {"rejuvenated": 3, "channels": 8}
    new, old = [0, 5, 7], [1, 2, 3, 4, 6]
    assert model.norm_two.weight[new].tolist() == [1.0, 1.0, 1.0]
    assert model.two.weight[new][:, 4:].all()
    assert not model.two.weight[new][:, :4].any()
    assert torch.equal(model.two.weight[old][:, :4], before.two.weight[old][:, [0, 2, 3, 5]])
    assert not model.head.weight[:, new].any()
    # Alone it is no reason for a reallocation.
    with pytest.raises(LayerError, match="No layer can have another width") as error:
        planned(subject_of(dying(Viewed, norm_two=[1])), "two")
    assert "in_place=false" in error.value.remedy
    # Known before anything has died.
    waiting = subject_of(network(Viewed), sparsify=3)
    with pytest.raises(LayerError, match="No layer can have another width"):
        check(plain_inputs(waiting, ("two",), 3, {}), waiting.config)
    check(plain_inputs(waiting, (), 3, {}), waiting.config)


def test_where_no_width_changes_dead_channels_start_anew_in_their_places() -> None:
    subject = subject_of(dying(Viewed, norm_two=[1]))
    plan = planned(subject)
    assert any(isinstance(edit, Reinitialize) for edit in plan.edits)
    assert not any(isinstance(edit, Resize) for edit in plan.edits)
    assert list(plan.figures) == ["two"]


def test_a_new_scale_makes_no_survivor_look_dead() -> None:
    model = dying(Chain, norm_one=[1], norm_deep=[1], norm_two=[0])
    with torch.no_grad():
        # All weak, and the weakest a fiftieth of the strongest.
        model.norm_one.weight[[0, 2, 3, 4, 5]] = torch.tensor([0.25, 0.005, 0.25, 0.25, 0.25]).double()
    subject = subject_of(model, rescale=True)
    done = carried_out(subject, planned(subject), Course(), 5)
    assert done.figures["one"]["dropped"] == done.figures["one"]["rejuvenated"] == 1
    torch.testing.assert_close(model.norm_one.weight.detach(), torch.ones(6).double())
    assert model.one.weight[1].any()


def in_use(model: nn.Module, **options: Any) -> float:
    subject = subject_of(model, sparsify=3, **options)
    rule = METHODS["neural-rejuvenation"].sparsification(plain_inputs(subject, (), 3, {}), subject.config)
    assert rule is not None
    tensors = model.state_dict(keep_vars=True)
    return rule.in_use(tensors, rule.dead(tensors))


def test_dead_channels_that_cannot_be_dropped_are_in_use() -> None:
    # One more dead channel of a conv group than of the other; then one of each: 2 of 8 rows of 4 that write it, two
    # vectors, and 5 kernels of 4 that read it.
    whole = parameters(Grouped())
    assert in_use(dying(Grouped, norm_three=[0])) == 1.0
    assert in_use(dying(Grouped, norm_three=[0, 2])) == (whole - 2 * (4 * 4 + 2 + 5 * 4)) / whole
    # The second layer's width is fixed; of the first 4 channels live.
    assert in_use(dying(Viewed, **DEAD[Chain])) == (340 - 2 * (40 + 8)) / 340
    # Multiples of 4 of (4, 5) are (4, 8); those of 6 would cost more than what there is.
    assert in_use(dying(Chain), round_to=4) == (340 - 2 * (40 + 8)) / 340
    assert in_use(dying(Chain, norm_one=[1], norm_deep=[1]), round_to=6) == 1.0


def test_after_a_penalty_a_network_that_is_too_large_is_as_small_as_it_can_be() -> None:
    options = {"sparsify": 3, "resource": 0.1, "below": 0.1}
    figures = planned(subject_of(dying(Chain), **options)).figures
    assert (figures[ALLOCATION]["after"], figures[ALLOCATION]["budget"]) == (214, 34)
    assert [figures[name]["width"] for name in ("one", "two")] == [4, 5]
    for model, more in (
        (dying(Viewed, norm_two=[1]), {}),
        (dying(Chain, norm_one=[1], norm_deep=[1]), {"round_to": 6}),
    ):
        plan = planned(subject_of(model, **options, **more))
        assert not any(isinstance(edit, Resize) for edit in plan.edits)
        assert any(isinstance(edit, Reinitialize) for edit in plan.edits)


def test_conv_groups_stay_equally_wide() -> None:
    model = dying(Grouped)
    subject = subject_of(model, round_to=2)
    carried_out(subject, planned(subject), Course(), 5)
    assert model.two.out_channels % 4 == model.one.out_channels % 4 == model.three.out_channels % 4 == 0
    assert model.side.out_channels % 2 == model.last.out_channels % 2 == 0
    assert model.head.in_features == 16 * model.last.out_channels


def test_a_gate_is_as_wide_as_what_it_multiplies() -> None:
    model = dying(Excited)
    subject = subject_of(model, resource=0.8)
    carried_out(subject, planned(subject), Course(), 5)
    assert model.excite.out_channels == model.one.out_channels == model.squeeze.in_channels != 6


def test_only_what_is_named_gets_another_width() -> None:
    plan = planned(subject_of(dying(Residual)), "one")
    assert set(plan.figures) == {ALLOCATION, "one"}
    assert plan.figures["one"]["dropped"] == 2


def test_bad_input() -> None:
    with pytest.raises(LayerError, match="171 that may be") as error:
        planned(subject_of(dying(Chain), resource=0.505))
    assert "it takes 214 of the" in error.value.problem
    assert "resource" in error.value.remedy
    with pytest.raises(LayerError, match="none is dead"):
        planned(subject_of(network(Chain)))
    with pytest.raises(PlanError, match="not kept in files"):
        encode(planned(subject_of(dying(Chain))))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("resource", {"in_place": False, "resource": 0.0}),
        ("resource", {"in_place": False, "resource": 1.5}),
        ("round_to", {"in_place": False, "round_to": 0}),
        ("resource", {"resource": 0.5}),
        ("round_to", {"round_to": 8}),
        ("below", {"in_place": False, "resource": 0.25, "sparsify": 3}),
    ]
    for name, options in wrong:
        with pytest.raises(OptionError, match=f"The option {name} of neural-rejuvenation") as refused:
            NeuralRejuvenationConfig(**options)
        assert ("in_place=false" in refused.value.remedy) == ("in_place" not in options)
