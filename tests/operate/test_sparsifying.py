"""Neural rejuvenation's phases: the penalty's staircase, what is recorded and held, and runs that are interrupted."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from two_stages import EXAMPLE, Batches, StoppedError, loader, make_network

import surgeon
from surgeon.coupling import trace
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.methods import METHODS
from surgeon.methods.neural_rejuvenation import NeuralRejuvenationConfig
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject
from surgeon.operate.sparsifying import Sparsifying, sparsifying
from surgeon.operate.work import Round
from surgeon.progress import no_progress
from surgeon.tuning import TuningConfig

TUNING = TuningConfig(opt="momentum", momentum=0.0, lr=0.05, sched="none", weight_decay=0.0)
STEADY = dataclasses.replace(TUNING, epochs=40)
NEARLY_DEAD = {"one.1.weight": [1, 3], "two.1.weight": [0, 2, 5]}
GROWING = {"sparsify": 4, "epochs": 6, "below": 0.75, "delta_lambda": 0.02}
PARAMETERS = 6 * 9 + 6 + 12 + 8 * 6 * 9 + 8 + 16 + 8 * 3 + 3


def start(value: float = 0.012) -> Any:
    """A network of which some scales are small, and dead at a hundredth of the largest, 1."""
    model = make_network()
    with torch.no_grad():
        for key, places in NEARLY_DEAD.items():
            model.get_parameter(key)[places] = value
    return model


def run(*, value: float = 0.012, stop_at: int | None = None, model: Any = None, **options: Any) -> Any:
    model, batches = start(value) if model is None else model, Batches(stop_at)
    loaders = {"train": loader(shuffle=True), "val": loader(), "calibration": loader()}
    given = {**loaders, "tuning": TUNING, "track": batches.track, **options}
    record = surgeon.apply(model, "neural-rejuvenation", example_input=EXAMPLE, **given)
    return model, record


class ByHand:
    """A run without training: what happens between epochs, with scales that are set by hand."""

    def __init__(
        self,
        *targets: str,
        images: Any = None,
        recalibrate: bool = True,
        tuning: TuningConfig = STEADY,
        **options: Any,
    ) -> None:
        self.model = start(1.0)
        self.said: list[str] = []
        self.course = Course()
        config = NeuralRejuvenationConfig(**options)
        graph = trace(self.model, EXAMPLE)
        subject = Subject(
            self.model, METHODS["neural-rejuvenation"], config, graph, images, torch.device("cpu"), no_progress,
            self.said.append, (), EXAMPLE,
        )  # fmt: skip
        made = sparsifying(subject, tuning, targets, None, recalibrate=recalibrate)
        assert isinstance(made, Sparsifying)
        self.phases = made
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        for parameter in self.model.parameters():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
        self.turn = made.between_epochs(self.course, Round(targets, 0, {}, ()))

    def after(self, epoch: int, one: int = 0, two: int = 0) -> Any:
        """Return what happens before an epoch, with so many dead channels in each stage."""
        with torch.no_grad():
            for stage, dead in ((self.model.one, one), (self.model.two, two)):
                stage[1].weight[:dead] = 0.001
        return self.turn(epoch, self.optimizer)

    @property
    def penalty(self) -> float:
        return self.phases.sparsity.coefficient


def left(one: int, two: int) -> float:
    """The share of the parameters that so many dead channels leave."""
    a, b = 6 - one, 8 - two
    return (a * 9 + a + 2 * a + b * a * 9 + b + 2 * b + 3 * b + 3) / PARAMETERS


def test_the_staircase_by_hand() -> None:
    hand = ByHand(sparsify=9, below=0.6, delta_r=0.1, delta_lambda=0.5)
    steps = []
    # The share falls by 0, 0.15, 0.09, 0 and 0.09: only more than 0.1 keeps the penalty as it is.
    for epoch, (one, two) in enumerate([(0, 0), (1, 0), (1, 1), (1, 1), (1, 2)]):
        steps.append((hand.after(epoch, one, two)["utilization"], hand.penalty))
    assert [share for share, _ in steps] == pytest.approx([left(0, 0), left(1, 0), left(1, 1), left(1, 1), left(1, 2)])
    assert [penalty for _, penalty in steps] == [0.5, 0.5, 1.0, 1.5, 2.0]
    made = hand.after(5, 2, 3)
    assert made["utilization"] == pytest.approx(left(2, 3))
    assert made["lambda"] == 2.0
    assert made["edits"] > 0
    assert hand.penalty == 0.0
    assert hand.after(6, 2, 3) is None
    assert hand.phases.held.phase == "rejuvenated network"


def test_a_fall_of_exactly_the_threshold_lets_the_penalty_grow() -> None:
    fall = left(0, 0) - left(1, 0)
    for given, grows in ((fall, True), (fall * (1 - 1e-9), False)):
        hand = ByHand(sparsify=9, delta_r=given)
        hand.after(0)
        before = hand.penalty
        hand.after(1, 1)
        assert (hand.penalty > before) == grows


def test_two_rounds_each_begin_without_a_penalty() -> None:
    hand = ByHand(sparsify=2, n=2, cross="remove", delta_lambda=0.5)
    assert [hand.after(epoch, 1, 1)["lambda"] for epoch in range(2)] == [0.0, 0.0]
    assert hand.penalty == 0.5
    assert hand.after(2, 1, 1)["edits"] > 0
    assert (hand.penalty, hand.phases.held.phase) == (0.0, "sparsified network")
    first = hand.phases.held.masks["two.0.weight"].clone()
    assert "head.weight" not in hand.phases.held.masks
    assert first[0, 1:].all()
    assert first[1:, 0].all()
    assert not first[0, 0].any()
    assert not first[1:, 1:].any()
    again = hand.after(3, 0, 0)
    assert (again["utilization"], again["lambda"], hand.penalty) == (1.0, 0.0, 0.5)
    with torch.no_grad():
        hand.model.one[1].weight[4] = hand.model.two[1].weight[5] = 0.001
    assert hand.turn(4, hand.optimizer)["edits"] > 0
    # What the first round has held is let go.
    second = hand.phases.held.masks["two.0.weight"]
    assert not second[0, 0:4].any()
    assert second[5, :4].all()
    assert second[0:5, 4].all()
    assert hand.phases.held.phase == "rejuvenated network"
    assert hand.turn(5, hand.optimizer) is None


def test_memory_of_what_was_edited_is_cleared_and_of_the_rest_kept() -> None:
    hand = ByHand(sparsify=1)
    hand.after(0)
    hand.after(1, 1, 2)
    memory = {name: hand.optimizer.state[value]["momentum_buffer"] for name, value in hand.model.named_parameters()}
    assert memory["one.1.weight"].tolist() == [0, 1, 1, 1, 1, 1]
    assert not memory["one.0.weight"][0].any()
    assert memory["one.0.weight"][1:].all()
    assert not memory["two.0.weight"][:2].any()
    assert not memory["two.0.weight"][:, 0].any()
    assert memory["two.0.weight"][2:, 1:].all()
    assert memory["head.weight"].tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]] * 3


def test_the_utilization_of_flops_counts_them() -> None:
    hand = ByHand(sparsify=9, target="flops")
    # 36 positions of the first convolution, 16 of the second, one of the classifier.
    whole = 36 * 54 + 16 * 432 + 24
    assert hand.after(0, 1, 2)["utilization"] == pytest.approx((36 * 45 + 16 * 6 * 5 * 9 + 18) / whole)


def test_only_channels_that_can_start_anew_count_as_dead() -> None:
    hand = ByHand("one", sparsify=2, below=0.9)
    # The second stage takes no part.
    assert hand.after(0, 0, 7)["utilization"] == 1.0
    assert "edits" not in hand.after(1, 0, 7)
    assert hand.after(2, 1, 7)["utilization"] == pytest.approx(left(1, 0))
    # All of a layer: nothing would pass.
    silent = ByHand(sparsify=9)
    with torch.no_grad():
        silent.model.one[1].weight.zero_()
    assert silent.turn(0, silent.optimizer)["utilization"] == 1.0


def test_a_penalty_in_vain_grows_on_and_ends_with_the_last_round() -> None:
    hand = ByHand(sparsify=2, n=2, delta_lambda=0.5)
    assert [hand.after(epoch)["lambda"] for epoch in range(3)] == [0.0, 0.5, 1.0]
    # The next round would fail as this one has, if it began at zero again.
    assert hand.penalty == 1.5
    assert hand.phases.held.phase == "sparsified network"
    assert "delta_lambda" in hand.said[-1]
    assert hand.course.changes == list(hand.course.skipped) == [hand.said[-1]]
    assert hand.after(3)["lambda"] == 1.5
    assert hand.after(4)["edits"] == 0
    assert (hand.penalty, hand.phases.held.phase) == (0.0, "network without a penalty")
    assert hand.after(5) is None


def test_a_rejuvenated_network_is_called_so_though_a_later_penalty_was_in_vain() -> None:
    hand = ByHand(sparsify=1, n=2)
    assert hand.after(1, 1, 1)["edits"] > 0
    assert hand.after(2)["edits"] == 0
    assert hand.phases.held.phase == "rejuvenated network"


def test_survivors_that_count_as_dead_beside_new_channels_are_told() -> None:
    for rescale in (False, True):
        hand = ByHand(sparsify=1, n=2, rescale=rescale)
        with torch.no_grad():
            hand.model.two[1].weight.fill_(0.008)[:2] = 1e-6
        assert hand.turn(1, hand.optimizer)["edits"] > 0
        assert any("count as dead" in text for text in hand.said) == (not rescale)


def test_a_network_that_is_made_sparse_is_no_result() -> None:
    """Rates of nearly zero: every epoch answers alike, and the first that may be the best is."""
    best: list[int] = []
    still = dataclasses.replace(TUNING, lr=1e-9)
    options = {"sparsify": 2, "epochs": 5, "cross": "keep", "recalibrate": False, "tuning": still}
    run(value=0.0, on_best=lambda epoch, state: best.append(epoch), **options)
    assert best == [1]


def test_statistics_are_measured_anew_unless_that_is_not_wanted() -> None:
    for wanted in (True, False):
        hand = ByHand(sparsify=1, images=loader(), recalibrate=wanted)
        hand.after(0)
        hand.after(1, 1)
        # A rejuvenated channel starts with a mean of 0.
        assert (hand.model.one[1].running_mean[0].item() == 0.0) == (not wanted)
        assert (hand.model.one[1].running_mean[1].item() == 0.0) == (not wanted)


def test_a_learning_rate_that_is_nearly_zero_by_then_is_told() -> None:
    for sched, told in (("cosine", True), ("none", False)):
        hand = ByHand(tuning=TuningConfig(epochs=20, sched=sched, warmup_epochs=0), sparsify=9, n=2)
        assert hand.said == hand.course.changes
        starts = [text.startswith("When channels start anew, in epoch 19 at the latest, the") for text in hand.said]
        assert starts == [True] * told


def test_the_penalty_grows_until_enough_is_dead_and_then_they_start_anew() -> None:
    said: list[str] = []
    _, record = run(say=said.append, **GROWING)
    operations = [epoch["operation"] for epoch in record.epochs]
    last = next(place for place, one in enumerate(operations) if one is not None and "edits" in one)
    assert operations[last]["utilization"] < 0.75 or last == 4
    assert operations[last]["edits"] > 0
    assert operations[last + 1 :] == [None] * (5 - last)
    phases = [epoch["phase"] for epoch in record.epochs]
    assert phases == ["sparsified network"] * last + ["rejuvenated network"] * (6 - last)
    assert {edit["epoch"] for edit in record.edits} == {last}
    assert f"From epoch {last + 1} on the rejuvenated network is trained: " in said[-1]
    assert [stage.name for stage in record.stages] == ["original", "finetuned"]


def test_cross_weights_that_are_removed_stay_zero_to_the_bit() -> None:
    adam = TuningConfig(opt="adamw", lr=0.01, weight_decay=0.1, model_ema=True, model_ema_decay=0.5)
    model, record = run(value=0.0, epochs=2, cross="remove", tuning=adam)
    other, _ = run(value=0.0, epochs=2, cross="keep", tuning=adam)
    new, later = NEARLY_DEAD["one.1.weight"], NEARLY_DEAD["two.1.weight"]
    between = torch.zeros(8, 6, dtype=torch.bool)
    between[later] = True
    between[:, new] ^= True
    removed, kept = model.two[0].weight.detach(), other.two[0].weight.detach()
    assert not removed[between].any()
    assert removed[~between].all()
    assert kept[between].all()
    # The classifier is their way to the output.
    assert model.head.weight[:, later].all()
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]


@pytest.mark.parametrize("cross", ["keep", "remove"])
def test_the_best_epoch_is_the_best_one(cross: str) -> None:
    best: list[int] = []
    slow = dataclasses.replace(TUNING, lr=0.02)
    _, record = run(value=0.0, epochs=4, cross=cross, tuning=slow, on_best=lambda epoch, state: best.append(epoch))
    figures = [epoch["top1"] for epoch in record.epochs]
    first = figures.index(max(figures))
    assert first != 0
    assert best == ([] if first == 3 else [first])


@pytest.mark.parametrize("stop_at", [5, 8, 14])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, stop_at: int) -> None:
    whole, expected = run(cross="remove", **GROWING)
    with pytest.raises(StoppedError):
        run(cross="remove", stop_at=stop_at, state=tmp_path / "s", save_every=1, **GROWING)
    end, record = run(cross="remove", state=tmp_path / "s", save_every=1, **GROWING)
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    for name in ("phase", "operation", "train_loss"):
        assert [epoch[name] for epoch in record.epochs] == [epoch[name] for epoch in expected.epochs]


def test_a_run_in_which_nothing_dies_says_why_it_edited_nothing() -> None:
    _, record = run(value=1.0, epochs=3, sparsify=1)
    assert record.edits == ()
    assert "delta_lambda" in record.skipped[0]
    assert record.skipped[0] in record.notes
    assert [epoch["phase"] for epoch in record.epochs] == ["sparsified network", *["network without a penalty"] * 2]


def test_a_stored_plan_is_carried_out_and_nothing_penalized() -> None:
    options = {"sparsify": 2, "cross": "remove"}
    plan = surgeon.plan(start(0.0), "neural-rejuvenation", example_input=EXAMPLE, **options)
    model, record = run(value=0.0, epochs=1, plan=plan)
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]
    assert [epoch["operation"] for epoch in record.epochs] == [None]
    assert not model.two[0].weight[0, [0, 2, 4, 5]].any()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(LayerError, match="none is dead") as error:
        run(value=1.0, epochs=1)
    assert "sparsify=EPOCHS" in error.value.remedy
    with pytest.raises(OptionError, match="leave none of 4 to learn in"):
        run(epochs=4, sparsify=4)
    with pytest.raises(DataError, match="while it is fine-tuned"):
        run(epochs=4, sparsify=2, train=None)
    stages: list[Any] = []
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 6), nn.Flatten()).eval()
    with pytest.raises(LayerError, match="no BatchNorm"):
        run(model=plain, epochs=1, on_stage=stages.append)
    # Before anything is measured.
    assert stages == []
