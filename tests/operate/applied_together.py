"""Runs of `apply` that one process does alone and two do together, in float64, where both agree closely."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from stopped_together import stop_all
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, Two

import surgeon
from surgeon.processes import count, index
from surgeon.processes.division import is_divided
from surgeon.tuning import TuningConfig, make_accelerator

BATCH = 8
"""Images a batch of all processes together; 29 leave a last batch of 5, which two processes cannot halve, and 9 one."""


TRAINED: list[bool] = []
"""Whether networks were divided that were asked for a loss."""


def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    TRAINED.append(is_divided(model))
    return functional.multi_margin_loss(model(batch[0]), batch[1])


def figures(model: nn.Module, batches: Iterable[list[torch.Tensor]]) -> dict[str, float]:
    """Return how many images there were, and a figure that is no mean of batches."""
    answers = torch.cat([model(pixels) for pixels, _ in batches])
    return {"images": len(answers), "spread": answers.std()}


RUNS: dict[str, dict[str, Any]] = {
    "sofm": {"layers": ["one", "two"], "teacher": "original"},
    # Four batches an epoch: an update of three of them, and one of the last, which two processes cannot halve.
    "reinit": {"criterion": "taylor", "ratio": 0.3, "layers": ["two"], "tuning": {"accumulate": 3, "model_ema": True}},
    "channel-regeneration": {"every": 1},
    "filter-grafting": {"every": 1},
    "weight-evolution": {"loss": loss, "metric": figures},
    "repr": {"epochs": 3, "s1": 1, "s2": 1, "n": 1, "ratio": 0.4, "tuning": {"opt": "adamw", "model_ema": True}},
    "dsd": {"epochs": 3, "s1": 1, "s2": 1, "n": 1, "tuning": {"accumulate": 3}},
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Two().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As different as they are after training, so that there are small ones.
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def images(number: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % CLASSES
    pixels = torch.randn(number, 1, 8, 8, generator=generator, dtype=torch.float64) + labels[:, None, None, None]
    return TensorDataset(pixels, labels)


def loader(data: TensorDataset, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(data, batch_size=BATCH // count(), shuffle=shuffle, generator=torch.Generator())


class StoppedError(Exception):
    """Ends a run in the middle, in all processes at once."""


def run(method: str, state: Path | None = None, stop_in: str | None = None) -> tuple[dict[str, nn.Module], Any]:
    """Do one of the runs, and return its networks and record; the processes do not even begin with the same weights.

    Args:
        method: of the run.
        state: folder of its states.
        stop_in: a pass over the images after the first epoch, in whose second batch it is stopped.
    """
    passes: list[str] = []

    def track(batches: Any, description: str, *given: Any, **others: Any) -> Iterator[Any]:
        passes.append(description)
        for number, batch in enumerate(batches):
            if description == stop_in and number == 1 and any(name.startswith("epoch 1") for name in passes):
                raise StoppedError
            yield batch

    given = RUNS[method]
    options = {name: value for name, value in given.items() if name not in ("tuning", "epochs")}
    model, partner = network(10 * index()), network(10 * index() + 1)
    networks = {"weights": model, "partner": partner} if method == "filter-grafting" else {"weights": model}
    record = surgeon.apply(
        model,
        method,
        train=loader(images(29, 1), shuffle=True),
        val=loader(images(9, 2)),
        calibration=loader(images(29, 1)),
        epochs=given.get("epochs", 2),
        tuning=TuningConfig(
            lr=0.05, smoothing=0.0 if "loss" in options else 0.1, clip_grad=2.0, **given.get("tuning", {})
        ),
        # accelerate keeps one number of batches an update for all accelerators of a process.
        accelerator=make_accelerator(),
        example_input=torch.zeros(2, 1, 8, 8, dtype=torch.float64),
        partner=networks.get("partner"),
        state=state,
        save_every=None if state is None else 1,
        resume_changed=True,
        track=track,
        **options,
    )
    return networks, record


def tensors(networks: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {
        f"{name}: {key}": tensor.clone()
        for name, known in networks.items()
        for key, tensor in known.state_dict().items()
    }


def training(record: Any) -> list[tuple[float, ...]]:
    return [(epoch["train_loss"], epoch["loss"], epoch["lr"]) for epoch in record.epochs]


REGROUPED = {"sofm": "epoch 2/2", "filter-grafting": "epoch 2/2", "reinit": "evaluating", "repr": "epoch 3/3"}
"""Runs that other processes go on with than began them, and where they are stopped: by a teacher, a partner that is
trained along, a moving average, held weights."""


def begin_all(folder: Path) -> None:
    """Begin the runs of `REGROUPED` and stop them, each with its states in a folder of its own."""
    for method, stop_in in REGROUPED.items():
        with contextlib.suppress(StoppedError):
            run(method, folder / method, stop_in)


def go_on_with_all(folder: Path) -> dict[str, Any]:
    """Go on with what `begin_all` has begun in other processes, and return the weights and the notes of every run."""
    found: dict[str, Any] = {}
    for method in REGROUPED:
        networks, record = run(method, folder / method)
        found[method] = {"tensors": tensors(networks), "notes": list(record.notes), "training": training(record)}
    return found


def run_all() -> dict[str, Any]:
    """Return weights and record of every run, and what came of those that one process began."""
    results: dict[str, Any] = {}
    for method in RUNS:
        networks, record = run(method)
        results[method] = {
            "tensors": tensors(networks),
            "edits": [dict(row) for row in record.edits],
            "stages": [(stage.name, stage.top1, stage.top5, stage.agreement) for stage in record.stages],
            "numbers": [(stage.loss, stage.drift, dict(stage.metrics)) for stage in record.stages],
            "divided": any(TRAINED),
            "training": training(record),
        }
    if count() > 1:
        results["stopped"] = stop_all()
        results["gone on"] = go_on_with_all(Path(os.environ["BEGUN_ALONE"]))
        begin_all(Path(os.environ["BEGUN_TOGETHER"]))
    return results
