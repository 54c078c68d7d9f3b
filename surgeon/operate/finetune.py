"""Fine-tuning a network in memory without any operation: the control of every comparison."""

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.errors import OptionError
from surgeon.memory import named_shortage
from surgeon.operate.identity import run_identity
from surgeon.operate.inputs import Batches, Say
from surgeon.operate.keeping import course_state, epochs_over, open_keeper, restored_course, taken
from surgeon.operate.record import Record
from surgeon.operate.several import placed
from surgeon.operate.soundness import check_sound
from surgeon.operate.task import Task
from surgeon.operate.work import (
    OnBest,
    OnEpoch,
    OnResume,
    OnStage,
    Work,
    find_teacher,
    fine_tune,
    finish,
    make_gauge,
    make_record,
)
from surgeon.progress import Track, no_progress
from surgeon.tuning import BatchLoss, Metric, TuningConfig, make_accelerator
from surgeon.tuning.accelerator import accumulation

NAME = "finetune"
"""What stands for the method in the record."""


@named_shortage()
def finetune(
    model: nn.Module,
    train: DataLoader[Any],
    *,
    loss: BatchLoss | None = None,
    metric: Metric | None = None,
    val: DataLoader[Any] | None = None,
    calibration: Batches | None = None,
    epochs: int = 10,
    tuning: TuningConfig | None = None,
    teacher: nn.Module | str | None = None,
    frozen: Collection[str] = (),
    reference: nn.Module | None = None,
    compared: bool = True,
    synthetic: bool = False,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    track: Track = no_progress,
    on_stage: OnStage = lambda stage: None,
    on_epoch: OnEpoch = lambda record: None,
    on_best: OnBest = lambda epoch, state: None,
    on_resume: OnResume = lambda epochs: None,
    say: Say = lambda text: None,
    state: Path | None = None,
    save_every: int | None = None,
    resume_changed: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> Record:
    """Fine-tune a network in place, as `apply` does after an operation, and return the record.

    Args:
        model: the network.
        train: batches for fine-tuning, `(images float32 [B, C, H, W], labels int64 [B])` or what `loss` takes.
        loss: for another task than classification: `loss(model, batch)` passes a batch of any structure through the
            network and returns the mean loss of its images, a scalar. It is called with the network in training mode,
            under autocast, and the batch on the network's device.
        metric: `metric(model, batches)` passes all of the validation batches through the network and returns figures by
            name, of which the first says which epoch is best; see `surgeon.tuning.Metric`. Without it the figures are
            top-1, top-5 and loss, or with `loss` its mean, for which it is called in evaluation mode as well.
        val: batches for the figures of every stage; without them there are none.
        calibration: batches on which the answers of a network that classifies are compared with the original's, `train`
            by default.
        epochs: epochs of fine-tuning, at least 1.
        tuning: all other options of fine-tuning; its `epochs` and `seed` are replaced by the arguments.
        teacher: `original` distils from the network as it came, a module from that one.
        frozen: names of parameters that keep their values; see `tune`.
        reference: see `apply`, likewise the next two.
        synthetic: `train` and `calibration` are images that nobody took.
        seed: seed of everything random.
        accelerator: device and precision; one is made where none is given.
        track: is told of every batch.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        on_best: called at the end with the number and the weights of the best epoch, where it is not the last.
        on_resume: see `apply`.
        say: is told where the run goes on.
        state: see `apply`, likewise the next three.
        save_every: updates of the weights between two states within an epoch.
        resume_changed: go on even where some options have changed.
        identity: what else tells this run from others.

    Returns:
        The record, with the stages `original` and `finetuned`, and `finetune` for the method.

    Raises:
        SurgeonError: as for `tune`.
    """
    task = Task(loss, metric)
    settings = dataclasses.replace(tuning or TuningConfig(), epochs=epochs, seed=seed)
    if epochs < 1:
        raise OptionError("No epoch of fine-tuning is asked for.", "Ask for at least one.")
    check_sound(model)
    accelerator = accelerator or make_accelerator(settings.mixed_precision, accumulate=settings.accumulate)
    settings = dataclasses.replace(settings, accumulate=accumulation(accelerator, settings.accumulate))
    teaching = find_teacher(placed(model, accelerator), teacher)
    start = time.perf_counter()
    keeper = open_keeper(
        state,
        lambda: run_identity(
            model, settings, accelerator, train, teacher=teaching,
            others={"method": NAME, "frozen": sorted(frozen), "identity": identity},
        ),
        save_every,
        say,
        changed=resume_changed,
    )  # fmt: skip
    images = calibration if calibration is not None else train
    if keeper is not None and keeper.state is not None:
        on_resume(epochs_over(keeper.state))
    gauge = make_gauge(model, task, val, images if compared else None, accelerator, track, reference)
    work = Work(
        model, task, accelerator, train, val, settings, teaching, synthetic, seed, gauge, track, on_stage, on_epoch,
        on_best, keeper,
    )  # fmt: skip
    course = restored_course(taken(keeper, "course"))
    course.note_changes(() if keeper is None else keeper.changes)
    if keeper is not None:
        keeper.parts["course"] = lambda: course_state(course)
    if not course.stages:
        finish(work, course, "original", None, start)
    fine_tune(work, course, None, frozen)
    return make_record(work, course, NAME)
