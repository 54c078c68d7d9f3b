"""Methods with phases: what is recorded, what is refused, and that an interrupted run goes on in its phase."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, EXAMPLE, Batches, StoppedError, loader, make_network

import surgeon
from surgeon.errors import DataError, LayerError, OptionError, PlanError
from surgeon.tuning import EpochRecord, TuningConfig

SHORT = {"s1": 1, "s2": 1, "n": 2, "epochs": 5}
PHASES = ["full network", "sub-network", "full network", "sub-network", "full network"]


def run(method: str, *, stop_at: int | None = None, **options: Any) -> Any:
    """Apply a method to a fresh network, stopped at a batch of training; return weights, record and batches."""
    model, batches = make_network(), Batches(stop_at)
    loaders = {"train": loader(shuffle=True), "val": loader(), "calibration": loader()}
    record = surgeon.apply(model, method, example_input=EXAMPLE, track=batches.track, **{**loaders, **SHORT, **options})
    return model, record, batches.count


def test_the_record_names_the_phases_and_what_happened_between_them() -> None:
    said: list[str] = []
    model, record, _ = run("repr", say=said.append)
    assert [epoch["phase"] for epoch in record.epochs] == PHASES
    assert [stage.name for stage in record.stages] == ["original", "finetuned"]
    operations = [epoch["operation"] for epoch in record.epochs]
    assert operations[0] is None
    assert [(one["phase"], one["round"]) for one in operations[1:]] == [
        ("sub-network", 1), ("full network", 1), ("sub-network", 2), ("full network", 2),
    ]  # fmt: skip
    assert {(edit["what"], edit["epoch"]) for edit in record.edits} == {
        ("dropped", 1), ("re-initialized", 2), ("dropped", 3), ("re-initialized", 4),
    }  # fmt: skip
    assert sum(figures["dropped"] for figures in operations[1]["figures"].values()) == 4
    assert sum(figures["renewed"] for figures in operations[2]["figures"].values()) == 4
    assert said == [
        "From epoch 2 on the sub-network is trained: round 1, 48 of 555 parameters are held at zero. Most of a layer's "
        "filters are dropped in one.0 (4 of 6); --max-per-layer bounds that.",
        "From epoch 3 on the full network is trained.",
        said[2],
        "From epoch 5 on the full network is trained.",
    ]
    assert said[2].startswith("From epoch 4 on the sub-network is trained: round 2, ")
    assert all(tensor.all() for key, tensor in model.state_dict().items() if key.endswith("weight"))


def test_dropped_filters_are_zero_after_their_epochs_and_only_then() -> None:
    dead: list[int] = []
    model = make_network()

    def on_epoch(record: EpochRecord) -> None:
        one, two = model.one[0].weight, model.two[0].weight
        dead.append(sum(int((weight == 0).flatten(1).all(1).sum()) for weight in (one, two)))

    surgeon.apply(
        model, "repr", train=loader(shuffle=True), val=loader(), example_input=EXAMPLE, on_epoch=on_epoch, **SHORT
    )  # fmt: skip
    assert dead == [0, 4, 0, 4, 0]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("repr", {"tuning": TuningConfig(opt="adamw", model_ema=True, model_ema_decay=0.5, lr=0.01)}),
        ("repr", {"criterion": "random", "tuning": TuningConfig(momentum=0.9, weight_decay=0.1, lr=0.05)}),
        ("dsd", {}),
    ],
)
def test_a_run_that_stops_in_any_phase_goes_on_there(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    whole, expected, batches = run(method, **options)
    assert batches == 5 * 3
    for stop_at in (5, 8, 12):
        state = tmp_path / str(stop_at)
        with pytest.raises(StoppedError):
            run(method, stop_at=stop_at, state=state, save_every=1, **options)
        end, record, _ = run(method, state=state, save_every=1, **options)
        for key, tensor in whole.state_dict().items():
            assert torch.equal(end.state_dict()[key], tensor), (stop_at, key)
        for name in ("phase", "operation", "top1", "train_loss"):
            assert [epoch[name] for epoch in record.epochs] == [epoch[name] for epoch in expected.epochs]
        assert record.edits == expected.edits


def test_it_goes_on_from_a_state_between_epochs_with_a_measured_criterion(tmp_path: Path) -> None:
    options = {"criterion": "taylor", "tuning": TuningConfig(orthogonal_loss=0.01, channels_last="yes")}
    whole, expected, _ = run("repr", calibration=loader(shuffle=True), **options)
    for stop_at in (4, 13):
        state = tmp_path / str(stop_at)
        with pytest.raises(StoppedError):
            run("repr", stop_at=stop_at, state=state, calibration=loader(shuffle=True), **options)
        end, record, _ = run("repr", state=state, calibration=loader(shuffle=True), **options)
        assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
        assert record.edits == expected.edits


def test_rounds_that_do_not_fit_are_told() -> None:
    said: list[str] = []
    _, record, _ = run("dsd", epochs=4, say=said.append, tuning=TuningConfig(sched="none"))
    assert said[0] == "Of 2 rounds only 1 will take place: all of them need 5 epochs."
    assert said[0] in record.notes
    assert [epoch["phase"] for epoch in record.epochs] == ["full network", "sparse network", *("full network",) * 2]


def test_a_rate_at_which_the_last_part_would_not_learn_is_told() -> None:
    # Cosine over 40 epochs: at the beginning of the last it is (1 + cos(π · 39 / 40)) / 2 = 0.154 % of the first.
    images = DataLoader(TensorDataset(torch.randn(3, 1, 8, 8), torch.arange(3)), 3)
    said: list[str] = []
    options = {"s1": 20, "s2": 19, "n": 1, "epochs": 40, "train": images, "val": images, "say": said.append}
    _, record, _ = run("dsd", tuning=TuningConfig(lr=0.01), **options)
    assert said[0].startswith("When the last part comes back, in epoch 40, the learning rate is 0.15% of --lr")
    assert said[0] in record.notes
    said.clear()
    run("dsd", tuning=TuningConfig(lr=0.01, sched="none"), **options)
    assert said[0].startswith("From epoch 21")


@pytest.mark.parametrize("method", ["repr", "dsd"])
def test_what_does_not_require_a_gradient_is_left_alone(method: str) -> None:
    model = make_network()
    model.one.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in model.one.state_dict().items()}
    given = {"train": loader(), "val": loader(), "example_input": EXAMPLE, **SHORT}
    record = surgeon.apply(model, method, **given)
    assert torch.equal(model.one[0].weight, before["0.weight"])
    assert any(
        "one.0.weight would not learn" in why or "one.0: its weights are left alone" in why for why in record.skipped
    )


def test_frozen_layers_are_not_dropped() -> None:
    _, record, _ = run("repr", tuning=TuningConfig(freeze=("one",)), ratio=0.3)
    assert {edit["tensor"].split(".")[0] for edit in record.edits} == {"two"}


def test_what_would_do_nothing_is_refused_before_any_work() -> None:
    images = DataLoader(TensorDataset(torch.zeros(24, 1, 8, 8), torch.arange(24) % CLASSES), 8)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (OptionError, "needs 3 epochs", {"epochs": 2}),
        (OptionError, "needs 3 epochs", {"epochs": 0}),
        (DataError, "edits the network while it is fine-tuned", {"train": None, "calibration": images}),
        (OptionError, r"A ratio of 0\.01 of 14 filters", {"ratio": 0.01}),
        (LayerError, "the network's output", {"layers": ["head"]}),
        (LayerError, "frozen", {"tuning": TuningConfig(freeze=("one", "two"))}),
        (OptionError, "has no option 'every'", {"every": 1}),
        (OptionError, "more than max_per_layer", {"ratio": 0.95}),
    ]
    for kind, why, options in cases:
        stages: list[Any] = []
        with pytest.raises(kind, match=why):
            run("repr", on_stage=stages.append, **options)
        assert not stages
    plan = surgeon.plan(make_network(), "repr", example_input=EXAMPLE)
    with pytest.raises(PlanError, match="one step of the schedule of repr"):
        surgeon.apply(make_network(), plan=plan, train=images, example_input=EXAMPLE)
