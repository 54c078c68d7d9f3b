"""Runs that give the network other widths or other layers: what is carried over, what begins anew, and resuming."""

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sparsifying import TUNING, ByHand, run, start
from torch import nn
from two_stages import EXAMPLE, StoppedError

import surgeon
from surgeon.checkpoint.tree_file import digest
from surgeon.edit.plan_file import told_apart
from surgeon.errors import OptionError, OutputError, PlanError
from surgeon.methods.resizing import ALLOCATION
from surgeon.operate import phases
from surgeon.structure import CrossAttentionConv2d, structure_of

ADAM = dataclasses.replace(TUNING, opt="adamw", lr=0.01, model_ema=True, model_ema_decay=0.5)
TWICE = {
    "sparsify": 2, "n": 2, "epochs": 6, "below": 0.6, "delta_lambda": 0.02, "in_place": False, "cross": "attend",
    "tuning": ADAM,
}  # fmt: skip


@functools.cache
def finished() -> tuple[Any, Any]:
    """A run that resizes the network twice, attends, and is never interrupted."""
    return run(value=0.0, **TWICE)


def remembered(hand: ByHand) -> dict[str, torch.Tensor]:
    return {name: hand.optimizer.state[value]["momentum_buffer"] for name, value in hand.model.named_parameters()}


def test_what_survives_keeps_its_memory_and_what_is_new_has_none() -> None:
    hand = ByHand(sparsify=1, in_place=False, cross="remove")
    hand.after(0)
    parameters = dict(hand.model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            hand.optimizer.state[parameter]["momentum_buffer"].copy_(parameter).add_(100.0)
    before = {name: memory.clone() for name, memory in remembered(hand).items()}
    made = hand.after(1, 3, 4)
    # With a and b channels there are 12a + 9ab + 6b + 3 parameters. From (3, 4) with one rate: (6, 7) costs 495 from
    # 1.83 on, (6, 8) 555.
    assert made["figures"][ALLOCATION]["after"] == 555
    assert made["figures"]["one.0"] == {"channels": 6, "dropped": 3, "rejuvenated": 3, "width": 6}
    assert made["figures"]["two.0"] == {"channels": 8, "dropped": 4, "rejuvenated": 4, "width": 8}
    a, b = hand.model.one[0].out_channels, hand.model.two[0].out_channels
    assert all(parameters[name] is value for name, value in hand.model.named_parameters())
    after = remembered(hand)
    assert {name: value.shape for name, value in after.items()} == {name: p.shape for name, p in parameters.items()}
    assert torch.equal(after["two.0.weight"][:4, :3], before["two.0.weight"][4:, 3:])
    assert not after["two.0.weight"][4:].any()
    assert not after["two.0.weight"][:, 3:].any()
    assert torch.equal(after["head.weight"][:, :4], before["head.weight"][:, 4:])
    assert not after["head.weight"][:, 4:].any()
    assert torch.equal(after["one.1.weight"], torch.cat([before["one.1.weight"][3:], torch.zeros(a - 3)]))
    held = hand.phases.held.masks["two.0.weight"]
    assert held.shape == (b, a, 3, 3)
    assert held[:4, 3:].all()
    assert not held[:4, :3].any()
    hand.optimizer.zero_grad()
    hand.model(EXAMPLE).sum().backward()
    hand.phases.held.before_update(hand.model)
    hand.optimizer.step()
    hand.phases.held.after_update(hand.model)


def test_every_round_has_the_budget_of_the_network_as_it_came() -> None:
    hand = ByHand(sparsify=1, n=2, below=0.5, in_place=False, resource=0.5)
    hand.after(0)
    first = hand.after(1, 4, 5)["figures"][ALLOCATION]
    assert (first["found"], first["before"], first["budget"]) == (555, 555, 277)
    assert 0.9 * 277 < first["after"] <= 277
    assert sum(parameter.numel() for parameter in hand.model.parameters()) == first["after"]
    # Of the network as it is now everything is in use, which is counted in shares of the first one.
    assert hand.phases.state()["in use"] == first["after"] / 555
    second = hand.after(2, 1, 1)
    assert second["utilization"] < first["after"] / 555
    again = second["figures"][ALLOCATION]
    assert (again["found"], again["before"], again["budget"]) == (555, first["after"], 277)
    assert again["after"] <= 277
    assert hand.after(3, 0, 0) is None


def test_a_network_that_does_not_come_down_to_what_is_allowed_is_trained_on() -> None:
    hand = ByHand(sparsify=1, below=0.3, in_place=False, resource=0.3)
    hand.after(0)
    # 12a + 9ab + 6b + 3 from (5, 7): nothing can be added, and nothing is lost.
    made = hand.after(1, 1, 1)
    assert made["utilization"] == 420 / 555
    assert made["figures"][ALLOCATION]["after"] == 420
    assert hand.phases.held.phase == "rejuvenated network"
    remarks = [text for text in hand.said if text.startswith("The parameters of the network cannot come down to 0.3")]
    assert len(remarks) == 1
    assert remarks[0] in hand.course.changes
    assert hand.after(2) is None


def test_cross_attention_begins_with_the_last_round() -> None:
    hand = ByHand(sparsify=1, n=2, in_place=False, cross="attend")
    hand.after(0)
    hand.after(1, 1, 1)
    assert type(hand.model.two[0]) is nn.Conv2d
    hand.after(2, 1, 1)
    assert hand.said[-1].endswith("parameters of 555 at first. Of its convolutions 1 have cross-attention.")
    assert isinstance(hand.model.two[0], CrossAttentionConv2d)
    sets = structure_of(hand.model).attention["two.0"]
    assert sets == hand.model.two[0].sets
    widths = hand.model.two[0].out_channels, hand.model.one[0].out_channels
    assert [side[-1] for side in (sets.written, sets.read)] == [width - 1 for width in widths]


@pytest.mark.parametrize("stop_at", [4, 8, 14])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, stop_at: int) -> None:
    whole, expected = finished()
    changed = [epoch["epoch"] for epoch in expected.epochs if epoch["operation"] and "edits" in epoch["operation"]]
    assert len(changed) == 2
    with pytest.raises(StoppedError):
        run(value=0.0, stop_at=stop_at, state=tmp_path / "s", save_every=1, **TWICE)
    end, record = run(value=0.0, state=tmp_path / "s", save_every=1, **TWICE)
    assert structure_of(end) == structure_of(whole)
    assert not any(module.training for module in end.modules())
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    assert record.notes == expected.notes
    for name in ("phase", "operation", "train_loss", "loss"):
        assert [epoch[name] for epoch in record.epochs] == [epoch[name] for epoch in expected.epochs]


@pytest.mark.parametrize(("sparsify", "stop_at"), [(0, 4), (2, 11)])
def test_a_run_goes_on_where_cross_attention_leaves_no_channel_free(
    tmp_path: Path, sparsify: int, stop_at: int
) -> None:
    options = {"value": 0.0, "epochs": sparsify + 2, "sparsify": sparsify, "below": 0.9, "cross": "attend"}
    whole, expected = run(**options)
    assert structure_of(whole).attention
    with pytest.raises(StoppedError):
        run(stop_at=stop_at, state=tmp_path / "s", save_every=1, **options)
    end, record = run(state=tmp_path / "s", save_every=1, **options)
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    assert [epoch["phase"] for epoch in record.epochs] == [epoch["phase"] for epoch in expected.epochs]


def test_a_network_that_is_resized_before_it_is_trained(tmp_path: Path) -> None:
    options = {"value": 0.0, "epochs": 2, "in_place": False, "resource": 0.8, "cross": "remove", "tuning": ADAM}
    whole, expected = run(**options)
    assert [stage.name for stage in expected.stages] == ["original", "operated", "recalibrated", "finetuned"]
    # The dead channels had a shift, and nothing else is lost.
    figures = expected.figures[ALLOCATION]
    assert sum(parameter.numel() for parameter in whole.parameters()) == figures["after"] <= 444
    assert json.loads(expected.to_json())["figures"]["one.0"]["width"] == whole.one[0].out_channels
    assert any("surgeon.load" in note for note in expected.notes)
    between = whole.two[0].weight.detach()
    assert not between[:5, 4:].any()
    with pytest.raises(StoppedError):
        run(stop_at=4, state=tmp_path / "s", save_every=1, **options)
    end, _ = run(state=tmp_path / "s", save_every=1, **options)
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())


def test_without_an_example_the_network_is_tried_with_images_of_its_configuration() -> None:
    plain, widths = start(0.0), []
    for example in (None, EXAMPLE):
        model = copy.deepcopy(plain)
        model.default_cfg = {"input_size": (1, 8, 8)}
        record = surgeon.apply(
            model, "neural-rejuvenation", epochs=0, in_place=False, resource=0.8, example_input=example
        )
        assert record.figures[ALLOCATION]["after"] <= 444
        widths.append({key: tensor.shape for key, tensor in model.state_dict().items()})
    assert widths[0] == widths[1]


def test_the_best_epoch_is_one_of_the_network_as_it_is_at_last() -> None:
    best: list[tuple[int, dict[str, torch.Tensor]]] = []
    options = {**TWICE, "tuning": dataclasses.replace(TUNING, lr=0.2)}
    model, record = run(value=0.0, on_best=lambda epoch, state: best.append((epoch, state)), **options)
    last = max(epoch["epoch"] for epoch in record.epochs if epoch["operation"] and epoch["operation"].get("edits"))
    figures = [epoch["top1"] for epoch in record.epochs][last:]
    first = last + figures.index(max(figures))
    assert [epoch for epoch, _ in best] == ([] if first == len(record.epochs) - 1 else [first])
    for _, state in best:
        copy.deepcopy(model).load_state_dict(state)


def test_several_processes_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "count", lambda: 2)
    for options in ({"in_place": False}, {"cross": "attend"}):
        stages: list[Any] = []
        with pytest.raises(OptionError, match="several processes"):
            run(value=0.0, epochs=1, on_stage=stages.append, **options)
        assert stages == []


def test_a_plan_of_widths_is_shown_and_not_kept(tmp_path: Path) -> None:
    model = start(0.0)
    plan = surgeon.plan(model, "neural-rejuvenation", example_input=EXAMPLE, in_place=False, resource=0.8)
    assert plan.figures[ALLOCATION]["budget"] == 444
    assert {change.what for change in plan.changes()} == {"2 removed, 1 added", "3 removed, 2 added"}
    with pytest.raises(PlanError, match="not kept in files"):
        surgeon.save_plan(plan, tmp_path / "plan.safetensors")
    # A plan in memory is carried out like one that is made.
    end, record = run(value=0.0, epochs=1, plan=plan)
    assert sum(parameter.numel() for parameter in end.parameters()) == plan.figures[ALLOCATION]["after"]
    assert record.figures[ALLOCATION] == plan.figures[ALLOCATION]


def test_a_plan_in_memory_is_carried_out_like_one_that_is_made() -> None:
    plain, options = start(0.0), {"in_place": False, "resource": 0.8, "cross": "attend", "rescale": True}
    networks = [copy.deepcopy(plain) for _ in range(2)]
    surgeon.execute(
        networks[0], surgeon.plan(plain, "neural-rejuvenation", example_input=EXAMPLE, **options), example_input=EXAMPLE
    )
    surgeon.apply(networks[1], "neural-rejuvenation", epochs=0, example_input=EXAMPLE, **options)
    first, second = (network.state_dict() for network in networks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], tensor) for key, tensor in second.items())
    assert structure_of(networks[0]) == structure_of(networks[1])
    assert list(structure_of(networks[0]).attention) == ["two.0"]


def test_a_run_of_a_plan_in_memory_goes_on_by_that_plan_alone(tmp_path: Path) -> None:
    def planned(**options: Any) -> Any:
        return surgeon.plan(start(0.0), "neural-rejuvenation", example_input=EXAMPLE, **options)

    narrow = planned(in_place=False, resource=0.8)
    attending = planned(in_place=True, cross="attend")
    options = {"value": 0.0, "epochs": 1, "state": tmp_path / "s", "save_every": 1}
    with pytest.raises(StoppedError):
        run(plan=narrow, stop_at=2, **options)
    with pytest.raises(OutputError, match="plan"):
        run(plan=planned(in_place=False, resource=0.9), **options)
    end, _ = run(plan=narrow, **options)
    whole, _ = run(plan=narrow, value=0.0, epochs=1)
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    prints = {digest(*told_apart(plan)) for plan in (narrow, planned(in_place=False, resource=0.8), attending)}
    assert len(prints) == 2
