"""The steps that every run has: fine-tune, and take down what happened."""

import copy
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.coupling.graph import ChannelGroup
from surgeon.errors import DivergenceError, OptionError
from surgeon.operate.course import Course
from surgeon.operate.inputs import Batches
from surgeon.operate.keeping import Keeper, taken
from surgeon.operate.record import Record, Stage, StageName
from surgeon.operate.stages import Figures, Gauge
from surgeon.operate.task import Task
from surgeon.progress import Track
from surgeon.structure import structure_of
from surgeon.tuning import BetweenEpochs, EpochRecord, Held, Score, Sparsity, Tuned, TuningConfig, tune

OnStage = Callable[[Stage], None]
OnEpoch = Callable[[EpochRecord], None]
OnResume = Callable[[int], None]
OnBest = Callable[[int, dict[str, torch.Tensor]], None]


@dataclass(frozen=True)
class Work:
    """Everything that one run works with and that does not change while it runs."""

    model: nn.Module
    task: Task
    accelerator: Accelerator
    train: DataLoader[Any] | None
    val: DataLoader[Any] | None
    tuning: TuningConfig
    teacher: nn.Module | None
    synthetic: bool
    seed: int
    gauge: Gauge
    track: Track
    on_stage: OnStage
    on_epoch: OnEpoch
    on_best: OnBest
    keeper: Keeper | None = None

    @property
    def unmeasured(self) -> bool:
        """Whether there are only images that nobody took, on which right and wrong answers are none."""
        return self.synthetic and self.val is None


@dataclass(frozen=True)
class Round:
    """One operation with the fine-tuning that follows it: its targets, its seed, and what it may not touch."""

    targets: tuple[str, ...]
    seed: int
    left_alone: Mapping[ChannelGroup, str]
    frozen: Collection[str]

    @property
    def label(self) -> str:
        """The targets in words."""
        return ", ".join(self.targets) or "the whole network"


def fine_tune(
    work: Work,
    course: Course,
    label: str | None,
    frozen: Collection[str],
    between_epochs: BetweenEpochs | None = None,
    held: Held | None = None,
    sparsity: Sparsity | None = None,
) -> None:
    """Fine-tune the network, where there are images to train on and epochs are asked for.

    Args:
        work: the run.
        course: what has happened so far; the epochs and the stage are added.
        label: the targets that were operated on before, in words; None where there were none.
        frozen: names of parameters that keep their values.
        between_epochs: see `tune`, likewise the next.
        held: what is held at zero.
        sparsity: a penalty on some parameters.
    """
    if work.train is None or work.tuning.epochs == 0:
        return
    start, state, saving, keeper = time.perf_counter(), None, None, work.keeper
    if keeper is not None:
        start -= taken(keeper, "seconds") or 0.0
        state = None if keeper.state is None else keeper.hand_over
        saving = keeper.saving(label, work.tuning.epochs, start)
    measured = work.val if work.val is not None else work.train
    try:
        tuned = tune(
            work.model,
            work.train,
            measured,
            work.tuning,
            accelerator=work.accelerator,
            teacher=work.teacher,
            objective=work.task.loss,
            score=_score(work, measured),
            frozen=frozen,
            between_epochs=between_epochs,
            on_epoch=work.on_epoch,
            track=work.track,
            held=held,
            sparsity=sparsity,
            saving=saving,
            state=state,
        )
    except DivergenceError as error:
        if keeper is None:
            raise
        kept = (
            f"The last good state is kept in {keeper.folder.path}: with --resume-changed (in Python: "
            "resume_changed=True) the same run goes on from there with other values of these options."
        )
        raise DivergenceError(error.problem, f"{error.remedy} {kept}") from error
    course.epochs += [{**dataclasses.asdict(record), "target": label} for record in tuned.epochs]
    # Agreement on a few synthesized images tells no epoch from another.
    if tuned.best_epoch != len(tuned.epochs) - 1 and not work.unmeasured:
        work.on_best(tuned.best_epoch, tuned.best_state)
    finish(work, course, "finetuned", label, start, _last_figures(work, tuned), _last_compared(work, tuned))


def _score(work: Work, measured: DataLoader[Any]) -> Score | None:
    """Return what `tune` shall measure the epochs by, where it is not top-1, top-5 and loss."""
    if not work.task.standard:
        return work.task.score(measured, work.accelerator, work.track)
    return work.gauge.agreement if work.unmeasured else None


def _last_figures(work: Work, tuned: Tuned) -> Figures | None:
    """Return the figures of the last epoch, which are those of the network as it stands now."""
    last = tuned.epochs[-1]
    return None if work.val is None else Figures(last.top1, last.top5, last.loss, last.metrics)


def _last_compared(work: Work, tuned: Tuned) -> tuple[float, float] | None:
    """Return the last epoch's drift and agreement, where it was measured by them."""
    if not work.unmeasured or not work.task.standard:
        return None
    metrics = tuned.epochs[-1].metrics
    return metrics["drift"], metrics["agreement"]


def make_gauge(
    model: nn.Module,
    task: Task,
    val: DataLoader[Any] | None,
    images: Batches | None,
    accelerator: Accelerator,
    track: Track,
    reference: nn.Module | None = None,
) -> Gauge:
    """Return what measures the stages; only logits of classes are compared, with the original's or a reference's."""
    score = None if val is None else task.score(val, accelerator, track)
    return Gauge(model, score, images if task.classifies else None, accelerator, reference)


def find_teacher(model: nn.Module, teacher: nn.Module | str | None) -> nn.Module | None:
    if isinstance(teacher, str):
        if teacher != "original":
            raise OptionError(f"The teacher '{teacher}' is not a network.", "Pass 'original' or a module.")
        return copy.deepcopy(model)
    return teacher


def finish(
    work: Work,
    course: Course,
    name: StageName,
    label: str | None,
    start: float,
    figures: Figures | None = None,
    compared: tuple[float, float] | None = None,
) -> None:
    stage = work.gauge.stage(name, label, start, figures, compared)
    course.stages.append(stage)
    work.on_stage(stage)


def make_record(
    work: Work,
    course: Course,
    method: str,
    *,
    options: Mapping[str, Any] | None = None,
    targets: tuple[str, ...] = (),
    partner: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record of a run that has ended; see `Record` for what is given."""
    notes = []
    if work.train is None or work.tuning.epochs == 0:
        notes.append("No fine-tuning was done; the network has not learnt to use what was edited.")
    elif work.tuning.model_ema:
        notes.append("The figures of the epochs and the weights are those of the moving average (--model-ema).")
    if work.train is not None and work.tuning.epochs and work.val is None and not work.synthetic:
        notes.append("Without validation images the figures of the epochs are those of the training images.")
    architecture = getattr(work.model, "surgeon_architecture", None)
    return Record(
        method=method,
        options=options or {},
        seed=work.seed,
        targets=targets,
        edits=tuple(course.edits),
        figures=course.figures,
        skipped=tuple(course.skipped),
        stages=tuple(course.stages),
        epochs=tuple(course.epochs),
        tuning=dataclasses.asdict(work.tuning) if work.train is not None and work.tuning.epochs else {},
        arch=None if architecture is None else str(architecture),
        arch_arguments={} if architecture is None else dict(architecture.arguments),
        resized=bool(structure_of(work.model)),
        partner=partner or {},
        device=str(work.accelerator.device),
        notes=(*notes, *course.changes),
    )
