"""The main job on a network in memory: measure, plan, execute, recalibrate, fine-tune, and write down every stage."""

import copy
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan
from surgeon.errors import OptionError
from surgeon.measure.bn import recalibrate as recalibrate_statistics
from surgeon.methods import make_config
from surgeon.operate.course import Course, left_alone, round_seed
from surgeon.operate.inputs import Batches, Say, Subject, find_method, measured_inputs, rounds
from surgeon.operate.moments import forget
from surgeon.operate.partner import Partner
from surgeon.operate.record import Record, Stage, StageName
from surgeon.operate.stages import Gauge
from surgeon.progress import Track, no_progress
from surgeon.tuning import EpochRecord, Scores, Tuned, TuningConfig, make_accelerator, tune

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


def apply(
    model: nn.Module,
    method: str = "sofm",
    layers: Sequence[str] = (),
    *,
    train: DataLoader[Any] | None = None,
    val: DataLoader[Any] | None = None,
    calibration: Batches | None = None,
    epochs: int = 10,
    tuning: TuningConfig | None = None,
    teacher: nn.Module | str | None = None,
    partner: nn.Module | None = None,
    recalibrate: bool = True,
    seed: int = 0,
    example_input: Any = None,
    graph: CouplingGraph | None = None,
    accelerator: Accelerator | None = None,
    track: Track = no_progress,
    say: Say = lambda text: None,
    on_stage: OnStage = lambda stage: None,
    on_epoch: OnEpoch = lambda record: None,
    on_best: OnBest = lambda epoch, state: None,
    **options: Any,
) -> Record:
    """Apply a method to a network in place, fine-tune it, and return the record.

    A method that takes one module at a time operates on each and fine-tunes in turn, with everything before it frozen
    (SOFM paper, the experiments with layers 4 and 5).

    Args:
        model: the network; its weights change, its structure does not.
        method: a name in the table of methods.
        layers: module names and globs; none means the method's own choice, see `plan`.
        train: batches for fine-tuning; without them, or with `epochs=0`, there is none.
        val: batches for top-1, top-5 and loss at every stage; without them there are no such figures.
        calibration: batches for measuring and recalibration, `train` by default; best without random augmentation.
        epochs: epochs of fine-tuning after each operation.
        tuning: all other options of fine-tuning; its `epochs` and `seed` are replaced by the arguments.
        teacher: `original` distils from the network as it came, a module from that one.
        partner: a second network of the same architecture, for methods that mix two. Where the operation repeats
            (`every`), it is trained along and mixed in turn; otherwise it stays as it is.
        recalibrate: measure the BatchNorm statistics anew after the operation, where there is data.
        seed: seed of everything random.
        example_input: see `trace`.
        graph: the network's coupling graph; traced where there is none.
        accelerator: device and precision; one is made where none is given.
        track: is told of every batch.
        say: is told how long a slow measurement will take.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        on_best: called after fine-tuning with the number and the weights of the best epoch, where it is not the last.
        options: the method's options.

    Raises:
        SurgeonError: as for `plan`, and as for `tune`.
    """
    chosen = find_method(method)
    config = make_config(chosen, options)
    settings = dataclasses.replace(tuning or TuningConfig(), epochs=epochs, seed=seed)
    accelerator = accelerator or make_accelerator(settings.mixed_precision)
    graph = graph or trace(model, example_input)
    plans = rounds(chosen, graph, layers)
    model.to(accelerator.device)
    images = calibration if calibration is not None else train
    subject = Subject(model, chosen, config, graph, images, accelerator.device, track, say)
    teaching = _teacher(model, teacher)
    start = time.perf_counter()
    work = Work(
        subject, accelerator, train, val, settings, teaching,
        None if partner is None else Partner(partner.to(accelerator.device), subject, train, settings),
        recalibrate, seed, Gauge(model, val, images, accelerator, track), on_stage, on_epoch, on_best,
    )  # fmt: skip
    course = Course()
    _finish(work, course, "original", None, start)
    frozen: frozenset[str] = frozenset()
    done: list[tuple[str, ...]] = []
    for place, targets in enumerate(plans):
        alone = left_alone(graph, done, targets, course)
        one = Round(targets, round_seed(seed, place), alone, frozen)
        done.append(targets)
        if _operate(work, course, one):
            if train is not None and epochs > 0:
                _tune(work, course, one, train)
            frozen = frozenset(key for name in targets for key in graph.outputs.tensors_before(name))
    return _record(work, course, tuple(target for targets in done for target in targets))


def _operate(work: Work, course: Course, one: Round) -> bool:
    """Plan and execute one round's edits and recalibrate; return whether there was anything to edit."""
    start = time.perf_counter()
    made = _carry_out(work, one, one.seed, 0.0)
    course.note(made)
    if not made.edits:
        return False
    _finish(work, course, "operated", one, start)
    start = time.perf_counter()
    if _recalibrate(work):
        _finish(work, course, "recalibrated", one, start)
    return True


def _carry_out(work: Work, one: Round, seed: int, progress: float) -> Plan:
    """Make the plan for the network as it is now, and carry it out (on the partner as well, if it trains along)."""
    subject, partner = work.subject, work.partner
    tensors = None if partner is None else partner.tensors
    inputs = measured_inputs(subject, one.targets, seed, one.left_alone, tensors, progress)
    made = subject.method.make_plan(inputs, subject.config)
    if partner is not None and partner.trains and progress > 0:
        # The other way round, while this network is still as it was.
        partner.plan(one.targets, seed, progress)
    execute(subject.model, made)
    return made


def _recalibrate(work: Work) -> bool:
    """Measure the BatchNorm statistics anew where that is wanted and possible; return whether any changed."""
    subject = work.subject
    if not work.recalibrate or subject.images is None:
        return False
    return recalibrate_statistics(subject.model, subject.images, device=subject.device, track=subject.track) > 0


def _tune(work: Work, course: Course, one: Round, train: DataLoader[Any]) -> None:
    start = time.perf_counter()
    model = work.subject.model
    every = getattr(work.subject.config, "every", None)

    def repeat(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
        if work.partner is not None and work.partner.trains:
            work.partner.train_epoch()
        if not every or epoch % every:
            return None
        made = _carry_out(work, one, one.seed + epoch, epoch / work.tuning.epochs)
        forget(optimizer, model, made)
        course.note(made, epoch)
        _recalibrate(work)
        return {"edits": len(made.edits), "figures": dict(made.figures)}

    tuned = tune(
        model,
        train,
        work.val if work.val is not None else train,
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
    _finish(work, course, "finetuned", one, start, _last_scores(work, tuned))


def _last_scores(work: Work, tuned: Tuned) -> Scores | None:
    """Return the scores of the last epoch, which are those of the network as it stands now."""
    last = tuned.epochs[-1]
    return None if work.val is None else Scores(last.top1, last.top5, last.loss, 0, 0.0)


def _teacher(model: nn.Module, teacher: nn.Module | str | None) -> nn.Module | None:
    if isinstance(teacher, str):
        if teacher != "original":
            raise OptionError(f"The teacher '{teacher}' is not a network.", "Pass 'original' or a module.")
        return copy.deepcopy(model)
    return teacher


def _finish(
    work: Work, course: Course, name: StageName, one: Round | None, start: float, scores: Scores | None = None
) -> None:
    stage = work.gauge.stage(name, None if one is None else one.label, start, scores)
    course.stages.append(stage)
    work.on_stage(stage)


def _record(work: Work, course: Course, targets: tuple[str, ...]) -> Record:
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
        device=str(work.accelerator.device),
        notes=tuple(notes),
    )
