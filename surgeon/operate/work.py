"""The steps of a run: operate, recalibrate, fine-tune, and take down what happened."""

import copy
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from surgeon.coupling.graph import ChannelGroup
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Reorder, Rescale
from surgeon.errors import OptionError
from surgeon.measure.bn import recalibrate as recalibrate_statistics
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject, measured_inputs
from surgeon.operate.moments import forget
from surgeon.operate.partner import Partner
from surgeon.operate.record import Record, Stage, StageName
from surgeon.operate.stages import Figures, Gauge
from surgeon.tuning import EpochRecord, Tuned, TuningConfig, tune

OnStage = Callable[[Stage], None]
OnEpoch = Callable[[EpochRecord], None]
OnBest = Callable[[int, dict[str, torch.Tensor]], None]


@dataclass(frozen=True)
class Work:
    """Everything that one run works with and that does not change while it runs."""

    subject: Subject
    accelerator: Accelerator
    train: DataLoader[Any] | None
    val: DataLoader[Any] | None
    tuning: TuningConfig
    teacher: nn.Module | None
    partner: Partner | None
    recalibrate: bool
    seed: int
    gauge: Gauge
    on_stage: OnStage
    on_epoch: OnEpoch
    on_best: OnBest


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


def operate(work: Work, course: Course, one: Round) -> bool:
    """Plan and execute one round's edits and recalibrate; return whether there was anything to edit."""
    start = time.perf_counter()
    made = _carry_out(work, one, one.seed, 0.0)
    course.note(made)
    if not made.edits:
        return False
    finish(work, course, "operated", one, start)
    start = time.perf_counter()
    if _recalibrate(work, made):
        finish(work, course, "recalibrated", one, start)
    return True


def _carry_out(work: Work, one: Round, seed: int, progress: float) -> Plan:
    """Make the plan for the network as it is now, and carry it out (on the partner as well, if it trains along)."""
    subject, partner = work.subject, work.partner
    tensors = None if partner is None else partner.tensors
    inputs = measured_inputs(subject, one.targets, seed, one.left_alone, tensors, progress)
    made = subject.method.make_plan(inputs, subject.config)
    if partner is not None and partner.trains:
        # Planned before either is edited, so that both are mixed with what the other was.
        partner.plan(one.targets, seed, progress)
    execute(subject.model, made)
    if partner is not None:
        partner.settle()
    return made


def _recalibrate(work: Work, made: Plan) -> bool:
    """Measure the BatchNorm statistics anew where that is wanted, possible and needed; return whether any changed."""
    subject = work.subject
    # What keeps the function keeps the statistics.
    moved = any(not isinstance(edit, (Reorder, Rescale)) for edit in made.edits)
    if not work.recalibrate or subject.images is None or not moved:
        return False
    return recalibrate_statistics(subject.model, subject.images, device=subject.device, track=subject.track) > 0


def fine_tune(work: Work, course: Course, one: Round) -> None:
    """Fine-tune the network, with the operation repeated where the method's options say so."""
    if work.train is None or work.tuning.epochs == 0:
        return
    start = time.perf_counter()
    model = work.subject.model
    every = getattr(work.subject.config, "every", None)
    last = (work.tuning.epochs - 1) // every * every if every else 0

    def repeat(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
        if work.partner is not None and epoch <= last:
            # Only as long as there is a mixing left that needs it.
            work.partner.train_epoch()
        if not every or epoch % every:
            return None
        made = _carry_out(work, one, one.seed + epoch, epoch / work.tuning.epochs)
        forget(optimizer, model, made)
        course.note(made, epoch)
        _recalibrate(work, made)
        return {"edits": len(made.edits), "figures": dict(made.figures), "skipped": list(made.skipped)}

    tuned = tune(
        model,
        work.train,
        work.val if work.val is not None else work.train,
        work.tuning,
        accelerator=work.accelerator,
        teacher=work.teacher,
        frozen={name for name, _ in model.named_parameters()}.intersection(one.frozen),
        between_epochs=repeat,
        on_epoch=work.on_epoch,
        track=work.subject.track,
    )
    course.epochs += [{**dataclasses.asdict(record), "target": one.label} for record in tuned.epochs]
    if tuned.best_epoch != len(tuned.epochs) - 1:
        work.on_best(tuned.best_epoch, tuned.best_state)
    finish(work, course, "finetuned", one, start, _last_figures(work, tuned))


def _last_figures(work: Work, tuned: Tuned) -> Figures | None:
    """Return the figures of the last epoch, which are those of the network as it stands now."""
    last = tuned.epochs[-1]
    return None if work.val is None else (last.top1, last.top5, last.loss)


def find_teacher(model: nn.Module, teacher: nn.Module | str | None) -> nn.Module | None:
    if isinstance(teacher, str):
        if teacher != "original":
            raise OptionError(f"The teacher '{teacher}' is not a network.", "Pass 'original' or a module.")
        return copy.deepcopy(model)
    return teacher


def finish(
    work: Work, course: Course, name: StageName, one: Round | None, start: float, figures: Figures | None = None
) -> None:
    stage = work.gauge.stage(name, None if one is None else one.label, start, figures)
    course.stages.append(stage)
    work.on_stage(stage)


def make_record(work: Work, course: Course, targets: tuple[str, ...]) -> Record:
    notes = []
    if work.train is None or work.tuning.epochs == 0:
        notes.append("No fine-tuning was done; the network has not learnt to use what was edited.")
    elif work.val is None:
        notes.append("Without validation images the figures of the epochs are those of the training images.")
    architecture = getattr(work.subject.model, "surgeon_architecture", None)
    return Record(
        method=work.subject.method.name,
        options=dict(vars(work.subject.config)),
        seed=work.seed,
        targets=targets,
        edits=tuple(course.edits),
        figures=course.figures,
        skipped=tuple(course.skipped),
        stages=tuple(course.stages),
        epochs=tuple(course.epochs),
        tuning=dataclasses.asdict(work.tuning) if work.train is not None and work.tuning.epochs else {},
        arch=None if architecture is None else str(architecture),
        partner={} if work.partner is None else {"trained": work.partner.trains},
        device=str(work.accelerator.device),
        notes=tuple(notes),
    )
