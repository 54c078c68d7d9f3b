"""Neural rejuvenation's phases: the penalty's staircase, what is recorded and held, and runs that are interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from two_stages import EXAMPLE, loader, make_network

import surgeon
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.tuning import TuningConfig

TUNING = TuningConfig(opt="momentum", momentum=0.0, lr=0.05, sched="none", weight_decay=0.0)
NEARLY_DEAD = {"one.1.weight": [1, 3], "two.1.weight": [0, 2, 5]}
GROWING = {"sparsify": 4, "epochs": 6, "below": 0.75, "delta_lambda": 0.02}


class StoppedError(Exception):
    """Ends a run in the middle."""


def start(value: float = 0.012) -> Any:
    """A network of which some scales are small, and dead at a hundredth of the largest, 1."""
    model = make_network()
    with torch.no_grad():
        for key, places in NEARLY_DEAD.items():
            model.get_parameter(key)[places] = value
    return model


def run(*, value: float = 0.012, stop_at: int | None = None, **options: Any) -> Any:
    model, batches = start(value), 0

    def track(given: Any, description: str, total: int | None = None, *, training: Any = None) -> Any:
        nonlocal batches
        for batch in given:
            if training is not None:
                batches += 1
                if batches == stop_at:
                    raise StoppedError
            yield batch

    loaders = {"train": loader(shuffle=True), "val": loader(), "calibration": loader()}
    given = {**loaders, "tuning": TUNING, "track": track, **options}
    record = surgeon.apply(model, "neural-rejuvenation", example_input=EXAMPLE, **given)
    return model, record


def test_the_penalty_grows_until_enough_is_dead_and_then_they_start_anew() -> None:
    said: list[str] = []
    _, record = run(say=said.append, **GROWING)
    operations = [epoch["operation"] for epoch in record.epochs]
    traced = [one["lambda"] for one in operations if one is not None]
    # One step more for every epoch in which the utilization did not fall.
    assert traced == pytest.approx([0.02 * place for place in range(len(traced))])
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
    assert not model.head.weight[:, later].any()
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]


@pytest.mark.parametrize("stop_at", [5, 8, 14])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, stop_at: int) -> None:
    whole, expected = run(cross="remove", **GROWING)
    with pytest.raises(StoppedError):
        run(cross="remove", stop_at=stop_at, state=tmp_path / "s", save_every=1, **GROWING)
    end, record = run(cross="remove", state=tmp_path / "s", save_every=1, **GROWING)
    assert all(torch.equal(end.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    for name in ("phase", "operation", "train_loss"):
        assert [epoch[name] for epoch in record.epochs] == [epoch[name] for epoch in expected.epochs]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(LayerError, match="are alive") as error:
        run(value=1.0, epochs=1)
    assert "sparsify=EPOCHS" in error.value.remedy
    with pytest.raises(LayerError, match="are alive") as error:
        run(value=1.0, epochs=3, sparsify=1)
    assert "delta_lambda" in error.value.remedy
    with pytest.raises(OptionError, match="leave none of 4 to learn in"):
        run(epochs=4, sparsify=4)
    with pytest.raises(DataError, match="while it is fine-tuned"):
        run(epochs=4, sparsify=2, train=None)
