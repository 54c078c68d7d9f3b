"""The main job on a small network and random images: stages, freezing, repetition, determinism."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader
from two_stages import CLASSES, EXAMPLE, loader, make_network

import surgeon
from surgeon.edit.plan import Plan, Reinitialize
from surgeon.errors import DataError, OptionError
from surgeon.operate.moments import forget
from surgeon.operate.record import ranges
from surgeon.tuning import TuningConfig


def run(model: nn.Module, layers: list[str], **options: Any) -> Any:
    loaders = {"train": loader(shuffle=True), "val": loader(), "calibration": loader()}
    return surgeon.apply(model, "sofm", layers, example_input=EXAMPLE, **{**loaders, **options})


def test_the_stages_and_the_record() -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    seen: list[str] = []
    record = run(model, ["two"], epochs=2, merge="preserve", on_stage=lambda stage: seen.append(stage.name))
    assert seen == ["original", "operated", "recalibrated", "finetuned"]
    original, operated, recalibrated, finetuned = record.stages
    assert (original.drift, original.agreement) == (0.0, 1.0)
    assert all(stage.drift > 0 for stage in (operated, recalibrated, finetuned))
    assert finetuned.top1 == record.epochs[-1]["top1"]
    assert len(record.epochs) == 2
    assert {edit["tensor"] for edit in record.edits} == {
        *(f"two.0.{name}" for name in ("weight", "bias")),
        *(f"two.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "head.weight",
    }
    assert not torch.equal(model.state_dict()["two.0.weight"], before["two.0.weight"])
    written = json.loads(record.to_json())
    assert written["options"]["merge"] == "preserve"
    assert [stage["name"] for stage in written["stages"]] == seen
    assert set(written) >= {"surgeon", "method", "options", "arch", "checkpoint", "output", "seed", "targets", "edits"}
    assert set(written) >= {"stages", "epochs", "versions", "device"}


def test_recalibration_measures_the_new_statistics() -> None:
    model = make_network()
    (whole,) = DataLoader(loader().dataset, batch_size=24)
    run(model, ["two"], epochs=0, calibration=[whole])
    with torch.no_grad():
        expected = model.two[0](model.one(whole[0])).mean((0, 2, 3))
    # The first stage is normalized by the batch's own variance in the pass and by its unbiased estimate here.
    torch.testing.assert_close(model.two[1].running_mean, expected, rtol=5e-3, atol=1e-4)
    other = make_network()
    record = run(other, ["two"], epochs=0, recalibrate=False)
    assert [stage.name for stage in record.stages] == ["original", "operated"]
    assert not torch.allclose(other.two[1].running_mean, expected)


def test_the_same_seed_gives_the_same_bytes() -> None:
    states = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        model = make_network()
        run(model, ["two"], epochs=1, seed=3)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_several_targets_one_after_the_other_with_the_prefix_frozen() -> None:
    model = make_network()
    after_first: dict[str, torch.Tensor] = {}

    def remember(stage: Any) -> None:
        if stage.name == "finetuned" and stage.target == "one":
            after_first.update(copy.deepcopy(model.state_dict()))

    record = run(model, ["one", "two"], epochs=1, on_stage=remember)
    assert [(stage.name, stage.target) for stage in record.stages] == [
        ("original", None),
        ("operated", "one"), ("recalibrated", "one"), ("finetuned", "one"),
        ("operated", "two"), ("recalibrated", "two"), ("finetuned", "two"),
    ]  # fmt: skip
    state = model.state_dict()
    for name in ("one.0.weight", "one.0.bias", "one.1.weight", "one.1.bias"):
        assert torch.equal(state[name], after_first[name]), name
    assert not torch.equal(state["two.0.weight"], after_first["two.0.weight"])
    assert not torch.equal(state["head.weight"], after_first["head.weight"])


class Stream(nn.Module):
    """Two blocks on one stream of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block1 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.sum1, self.sum2 = nn.ReLU(), nn.ReLU()
        self.block2 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, CLASSES)
        self.num_classes = CLASSES

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = self.stem(images)
        stream = self.sum1(stream + self.block1(stream))
        return self.head(self.sum2(stream + self.block2(stream)).mean((2, 3)))


def test_targets_are_taken_in_the_order_of_execution() -> None:
    record = run(make_network(), ["two", "one"], epochs=0)
    assert record.targets == ("one", "two")


def test_a_stream_that_two_targets_share_is_edited_once() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Stream().eval()
    planned = surgeon.plan(model, "sofm", ["sum1", "sum2"], data=loader(), example_input=EXAMPLE)
    record = run(model, ["sum1", "sum2"], epochs=1)
    assert [stage.target for stage in record.stages] == [None, "sum1", "sum1", "sum1"]
    assert "edited by an earlier target" in record.skipped[0]
    assert planned.skipped == record.skipped
    assert [change.tensor for change in planned.changes()] == [edit["tensor"] for edit in record.edits]


def test_the_operation_repeats_every_so_many_epochs() -> None:
    record = run(make_network(), ["two"], epochs=5, every=2)
    repeated = [epoch["epoch"] for epoch in record.epochs if epoch["operation"]]
    assert repeated == [2, 4]
    assert sorted({edit.get("epoch", 0) for edit in record.edits}) == [0, 2, 4]


def test_plan_changes_nothing() -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    plan = surgeon.plan(model, "sofm", ["two"], data=loader(), example_input=EXAMPLE, ratio=0.25)
    assert plan.figures["two.0"]["nodes"] == 2
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    surgeon.execute(model, plan)
    assert not torch.equal(before["two.0.weight"], model.state_dict()["two.0.weight"])


def test_forget_clears_the_momentum_of_edited_entries_only() -> None:
    model = make_network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    graph = surgeon.trace(model, EXAMPLE)
    group = next(group for group in graph.groups if group.name == "one.0")
    edit = Reinitialize(group, torch.tensor([1, 4]), "zero", 0)
    forget(optimizer, model, Plan("test", {}, (), (edit,)))
    rows = optimizer.state[model.one[0].weight]["momentum_buffer"]
    columns = optimizer.state[model.two[0].weight]["momentum_buffer"]
    for momentum in (rows, columns.movedim(1, 0)):
        cleared = momentum.flatten(1).abs().sum(1) == 0
        assert cleared.tolist() == [False, True, False, False, True, False]


def test_without_images_it_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="needs images"):
        surgeon.plan(make_network(), "sofm", ["two"], example_input=EXAMPLE)


def test_unknown_methods_and_teachers_are_refused() -> None:
    with pytest.raises(OptionError, match="no method 'soft'"):
        surgeon.plan(make_network(), "soft", example_input=EXAMPLE)
    with pytest.raises(OptionError, match="'me' is not a network"):
        run(make_network(), ["two"], epochs=1, teacher="me", tuning=TuningConfig())


def test_a_teacher_changes_what_is_learnt() -> None:
    plain, taught = make_network(), make_network()
    run(plain, ["two"], epochs=1)
    run(taught, ["two"], epochs=1, teacher="original")
    assert not torch.equal(plain.head.weight, taught.head.weight)


@pytest.mark.parametrize(
    ("positions", "text"), [([], ""), ([5], "5"), ([0, 1, 2, 7], "0-2,7"), ([0, 2, 3], "0,2-3"), ([1, 3, 5], "1,3,5")]
)
def test_ranges(positions: list[int], text: str) -> None:
    assert ranges(positions) == text
