"""Fine-tuning without an operation: the control of every comparison."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from two_stages import EXAMPLE, loader, make_network

import surgeon
from surgeon.errors import OptionError
from surgeon.operate.record import Record
from surgeon.tuning import TuningConfig, epoch, make_accelerator, tune
from surgeon.tuning.run import Run


def test_it_is_the_fine_tuning_that_apply_does_and_nothing_more() -> None:
    model, alone = make_network(), make_network()
    record = surgeon.finetune(model, loader(shuffle=True), val=loader(), epochs=2, tuning=TuningConfig(lr=0.05), seed=3)
    config = TuningConfig(epochs=2, lr=0.05, seed=3)
    tuned = tune(alone, loader(shuffle=True), loader(), config, accelerator=make_accelerator())
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in model.state_dict().items())
    assert (record.method, record.options, record.targets, record.edits) == ("finetune", {}, (), ())
    assert [(stage.name, stage.target) for stage in record.stages] == [("original", None), ("finetuned", None)]
    original, finetuned = record.stages
    assert (original.drift, original.agreement) == (0.0, 1.0)
    assert finetuned.drift > 0
    assert finetuned.loss == tuned.epochs[-1].loss < original.loss
    assert [row["top1"] for row in record.epochs] == [epoch.top1 for epoch in tuned.epochs]
    assert record.tuning["lr"] == 0.05
    assert record.notes == ()


def test_frozen_parameters_keep_their_values() -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    surgeon.finetune(model, loader(), epochs=1, frozen=["one.0.weight", "one.1.weight", "one.1.bias"])
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    # A BatchNorm whose parameters are frozen keeps its statistics too; one that is trained cancels the bias before it.
    assert changed == {key for key in before if not key.startswith("one.")} - {"two.0.bias"} | {"one.0.bias"}


def test_without_validation_images_the_record_says_so() -> None:
    record = surgeon.finetune(make_network(), loader(), epochs=1)
    assert [stage.top1 for stage in record.stages] == [None, None]
    assert "figures of the epochs are those of the training images" in record.notes[0]


def test_the_best_epoch_is_handed_out_where_it_is_not_the_last() -> None:
    best = []
    # This rate throws the network off: two thirds of its answers are wrong from the second epoch on.
    record = surgeon.finetune(
        make_network(),
        loader(),
        val=loader(),
        epochs=6,
        tuning=TuningConfig(lr=2.0, sched="none"),
        on_best=lambda epoch, state: best.append((epoch, state)),
    )
    tops = [row["top1"] for row in record.epochs]
    assert tops.index(max(tops)) < 5
    ((epoch, state),) = best
    assert epoch == tops.index(max(tops))
    again = make_network()
    again.load_state_dict(state)
    assert surgeon.finetune(again, loader(), val=loader(), epochs=1).stages[0].top1 == max(tops)


def test_no_epoch_is_refused() -> None:
    with pytest.raises(OptionError, match="No epoch"):
        surgeon.finetune(make_network(), loader(), epochs=0)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many updates of the weights there have been in every run since, by their numbers."""
    made: list[int] = []

    def note(run: Run, update: Callable[[Run], None] = epoch._update) -> None:
        update(run)
        made.append(run.updates)

    monkeypatch.setattr(epoch, "_update", note)
    return made


@pytest.mark.parametrize("own", [None, 1, 3], ids=["no accelerator", "of one batch", "of three batches"])
@pytest.mark.parametrize("run", [surgeon.finetune, partial(surgeon.apply, method="sofm", example_input=EXAMPLE)])
def test_gradients_are_accumulated_whoever_made_the_accelerator(
    updates: list[int], own: int | None, run: Callable[..., Record]
) -> None:
    # Three batches an epoch. What the options leave at 1 is the accelerator's own business.
    for config, batches in ((TuningConfig(accumulate=2), 2), (TuningConfig(), own or 1)):
        accelerator = None if own is None else make_accelerator(accumulate=own)
        # Another one, such as that which places exemplars, says nothing on this one.
        make_accelerator()
        if own == 3:
            accelerator.gradient_accumulation_steps = own
        updates.clear()
        record = run(make_network(), train=loader(), epochs=1, tuning=config, accelerator=accelerator)
        assert updates == {1: [1, 2, 3], 2: [1, 2], 3: [1]}[batches]
        assert record.tuning["accumulate"] == batches
