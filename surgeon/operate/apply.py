"""The main job on a network in memory: measure, plan, execute, recalibrate, fine-tune, and write down every stage."""

import copy
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.edit.execute import execute
from surgeon.edit.plan import Edit, Plan
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.measure.activations import ClassMeans, class_means
from surgeon.measure.bn import recalibrate as recalibrate_statistics
from surgeon.methods import METHODS, make_config
from surgeon.methods.base import Inputs, Method
from surgeon.operate.record import Record, Stage, StageName, edit_rows
from surgeon.operate.targets import find_targets
from surgeon.progress import Track, no_progress
from surgeon.tuning import (
    EpochRecord,
    TuningConfig,
    clear_moments,
    compare_logits,
    evaluate,
    logits,
    make_accelerator,
    tune,
)

SEED_STRIDE = 10_007

DRIFT_IMAGES = 256
"""Calibration images on which the logits are compared with the original's."""

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
OnStage = Callable[[Stage], None]
OnEpoch = Callable[[EpochRecord], None]
OnBest = Callable[[int, dict[str, torch.Tensor]], None]


@dataclass(frozen=True)
class Work:
    """Everything that one run works with and that does not change while it runs."""

    model: nn.Module
    method: Method
    config: Any
    graph: CouplingGraph
    accelerator: Accelerator
    train: DataLoader[Any] | None
    val: DataLoader[Any] | None
    calibration: Batches | None
    tuning: TuningConfig
    teacher: nn.Module | None
    recalibrate: bool
    seed: int
    track: Track
    on_stage: OnStage
    on_epoch: OnEpoch
    on_best: OnBest


@dataclass
class Course:
    """What has happened so far: the record in the making."""

    stages: list[Stage] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    edits: list[dict[str, Any]] = field(default_factory=list)
    plan_edits: list[Edit] = field(default_factory=list)
    groups: dict[ChannelGroup, None] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, None] = field(default_factory=dict)


def find_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        OptionError: there is none.
    """
    if name not in METHODS:
        raise OptionError(f"There is no method '{name}'.", f"Choose one of: {', '.join(METHODS)}.")
    return METHODS[name]


def plan(
    model: nn.Module,
    method: str,
    layers: Sequence[str] = (),
    data: Batches | None = None,
    *,
    seed: int = 0,
    example_input: Any = None,
    track: Track = no_progress,
    **options: Any,
) -> Plan:
    """Return what a method would do to a network; nothing is changed.

    Args:
        model: the network.
        method: a name in the table of methods, e.g. `sofm`.
        layers: module names and globs; none means the deepest module with free channels.
        data: batches of `(images float32 [B, C, H, W], labels int64 [B])`, for methods that need them.
        seed: seed of everything random in the plan.
        example_input: see `trace`.
        track: is told of every batch.
        options: the method's options.

    Raises:
        OptionError: the method or an option is unknown or out of range.
        LayerError: a pattern matches nothing, or only frozen channels.
        TraceError: the network cannot be traced.
        DataError: the method needs images and there are none, or their labels do not fit.
    """
    chosen = find_method(method)
    config = make_config(chosen, options)
    graph = trace(model, example_input)
    targets = in_order(graph, find_targets(graph, layers))
    statistics = _statistics(model, chosen, graph, targets, data, _device(model), track)
    course = Course()
    for target in targets:
        inputs = Inputs(
            graph, (target,), statistics, target_seed(seed, targets, target), left_alone(graph, targets, target, course)
        )
        _note(course, chosen.make_plan(inputs, config))
    return Plan(
        chosen.name, dict(vars(config)), targets, tuple(course.plan_edits), course.figures, tuple(course.skipped)
    )


def in_order(graph: CouplingGraph, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the targets in the order in which the network computes them, so that what is frozen lies before."""
    return tuple(sorted(targets, key=graph.outputs.order))


def target_seed(seed: int, targets: Sequence[str], target: str) -> int:
    """Return the seed of one target's plan."""
    return seed + SEED_STRIDE * list(targets).index(target)


def left_alone(graph: CouplingGraph, targets: Sequence[str], target: str, course: "Course") -> dict[ChannelGroup, str]:
    """Return the groups that this target may not edit: those edited before, and those with frozen weights."""
    reasons = dict.fromkeys(course.groups, "they are edited by an earlier target already")
    earlier = targets[: list(targets).index(target)]
    frozen = {tensor for name in earlier for tensor in graph.outputs.tensors_before(name)}
    for group in graph.at(target):
        writers = [member.tensor for member in group.members if member.role == "producer"]
        if group not in reasons and frozen.intersection(writers):
            reasons[group] = "some of their weights are frozen after an earlier target"
    return reasons


def _statistics(
    model: nn.Module,
    method: Method,
    graph: CouplingGraph,
    targets: Sequence[str],
    data: Batches | None,
    device: torch.device,
    track: Track,
) -> dict[str, ClassMeans]:
    """Measure the targets' class-representative activations, if the method needs them."""
    if not method.needs_data:
        return {}
    if data is None:
        raise DataError(f"The method {method.name} measures activations and needs images.", "Pass some with --data.")
    for target in targets:
        if graph.outputs.tensors(target) != 1:
            raise LayerError(
                f"The module '{target}' hands several tensors on, so its output's channels are not those of one.",
                "Name one of the modules in it.",
            )
    return class_means(model, targets, data, num_outputs(model), device=device, track=track)


def num_outputs(model: nn.Module) -> int:
    """Return the number of classes of a classifier: its attribute, or the rows of its last linear layer.

    Raises:
        OptionError: the network has neither.
    """
    known = getattr(model, "num_classes", None)
    if isinstance(known, int) and known > 0:
        return known
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise OptionError("The network has no classifier.", "Give it an attribute num_classes.")
    return layers[-1].out_features if isinstance(layers[-1], nn.Linear) else layers[-1].out_channels


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
    recalibrate: bool = True,
    seed: int = 0,
    example_input: Any = None,
    accelerator: Accelerator | None = None,
    track: Track = no_progress,
    on_stage: OnStage = lambda stage: None,
    on_epoch: OnEpoch = lambda record: None,
    on_best: OnBest = lambda epoch, state: None,
    **options: Any,
) -> Record:
    """Apply a method to a network in place, fine-tune it, and return the record.

    With several layers, each is operated on and fine-tuned in turn, with everything before it frozen (SOFM paper, the
    experiments with layers 4 and 5).

    Args:
        model: the network; its weights change, its structure does not.
        method: a name in the table of methods.
        layers: module names and globs; none means the deepest module with free channels.
        train: batches for fine-tuning; without them, or with `epochs=0`, there is none.
        val: batches for top-1, top-5 and loss at every stage; without them there are no such figures.
        calibration: batches for measuring and recalibration, `train` by default; best without random augmentation.
        epochs: epochs of fine-tuning for each layer.
        tuning: all other options of fine-tuning; its `epochs` and `seed` are replaced by the arguments.
        teacher: `original` distils from the network as it came, a module from that one.
        recalibrate: measure the BatchNorm statistics anew after the operation, where there is data.
        seed: seed of everything random.
        example_input: see `trace`.
        accelerator: device and precision; one is made where none is given.
        track: is told of every batch.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        on_best: called after fine-tuning with the number and the weights of the best epoch, where it is not the last.
        options: the method's options.

    Raises:
        OptionError: the method or an option is unknown or out of range.
        LayerError: a pattern matches nothing, or only frozen channels.
        TraceError: the network cannot be traced.
        DataError: the method needs images and there are none, or their labels do not fit.
    """
    chosen = find_method(method)
    config = make_config(chosen, options)
    settings = dataclasses.replace(tuning or TuningConfig(), epochs=epochs, seed=seed)
    accelerator = accelerator or make_accelerator(settings.mixed_precision)
    graph = trace(model, example_input)
    targets = in_order(graph, find_targets(graph, layers))
    model.to(accelerator.device)
    work = Work(
        model, chosen, config, graph, accelerator, train, val, calibration if calibration is not None else train,
        settings, _teacher(model, teacher), recalibrate, seed, track, on_stage, on_epoch, on_best,
    )  # fmt: skip
    course = Course()
    images = _drift_images(work)
    reference = None if images is None else logits(model, images, accelerator=accelerator)
    _finish_stage(work, course, "original", None, images, reference, time.perf_counter())
    frozen: frozenset[str] = frozenset()
    for target in targets:
        alone = left_alone(graph, targets, target, course)
        seed_here = target_seed(seed, targets, target)
        if not _operate(work, course, target, seed_here, alone, images, reference):
            continue
        if work.train is not None and epochs > 0:
            _tune(work, course, target, seed_here, alone, frozen, images, reference)
        frozen = graph.outputs.tensors_before(target)
    return _record(work, course, targets)


def _operate(
    work: Work,
    course: Course,
    target: str,
    seed: int,
    alone: Mapping[ChannelGroup, str],
    images: DataLoader[Any] | None,
    reference: torch.Tensor | None,
) -> bool:
    """Plan and execute one target's edits and recalibrate; return whether there was anything to edit."""
    start = time.perf_counter()
    made = _plan_for(work, target, seed, alone)
    execute(work.model, made)
    _note(course, made)
    if not made.edits:
        return False
    _finish_stage(work, course, "operated", target, images, reference, start)
    if work.recalibrate and work.calibration is not None:
        start = time.perf_counter()
        if recalibrate_statistics(work.model, work.calibration, device=work.accelerator.device, track=work.track):
            _finish_stage(work, course, "recalibrated", target, images, reference, start)
    return True


def _plan_for(work: Work, target: str, seed: int, alone: Mapping[ChannelGroup, str]) -> Plan:
    device = work.accelerator.device
    statistics = _statistics(work.model, work.method, work.graph, (target,), work.calibration, device, work.track)
    return work.method.make_plan(Inputs(work.graph, (target,), statistics, seed, alone), work.config)


def _note(course: Course, made: Plan, epoch: int | None = None) -> None:
    course.edits += edit_rows(made, epoch)
    if epoch is None:
        course.plan_edits += made.edits
        course.groups.update((edit.group, None) for edit in made.edits)
        course.figures.update(made.figures)
        course.skipped.update(dict.fromkeys(made.skipped))


def _tune(
    work: Work,
    course: Course,
    target: str,
    seed: int,
    alone: Mapping[ChannelGroup, str],
    frozen: Collection[str],
    images: DataLoader[Any] | None,
    reference: torch.Tensor | None,
) -> None:
    assert work.train is not None
    start = time.perf_counter()
    parameters = {name for name, _ in work.model.named_parameters()}
    every = getattr(work.config, "every", None)

    def repeat(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
        if not every or epoch % every:
            return None
        made = _plan_for(work, target, seed + epoch, alone)
        execute(work.model, made)
        forget(optimizer, work.model, made)
        _note(course, made, epoch)
        if work.recalibrate and work.calibration is not None:
            recalibrate_statistics(work.model, work.calibration, device=work.accelerator.device, track=work.track)
        return {"edits": len(made.edits), "figures": dict(made.figures)}

    tuned = tune(
        work.model,
        work.train,
        work.val if work.val is not None else work.train,
        work.tuning,
        accelerator=work.accelerator,
        teacher=work.teacher,
        frozen=parameters.intersection(frozen),
        between_epochs=repeat,
        on_epoch=work.on_epoch,
        track=work.track,
    )
    course.epochs += [{**dataclasses.asdict(record), "target": target} for record in tuned.epochs]
    if tuned.best_epoch != len(tuned.epochs) - 1:
        work.on_best(tuned.best_epoch, tuned.best_state)
    _finish_stage(work, course, "finetuned", target, images, reference, start)


def forget(optimizer: Optimizer, model: nn.Module, made: Plan) -> None:
    """Zero the optimizer's memory of every entry that a plan has edited."""
    parameters = dict(model.named_parameters())
    for change in made.changes():
        parameter = parameters.get(change.tensor)
        if parameter is None:
            continue
        positions = change.positions.to(parameter.device)
        rows = change.rows if change.rows is not None else slice(None)
        index = positions if change.dim == 0 else (rows, *[slice(None)] * (change.dim - 1), positions)
        clear_moments(optimizer, parameter, index)


def _teacher(model: nn.Module, teacher: nn.Module | str | None) -> nn.Module | None:
    if isinstance(teacher, str):
        if teacher != "original":
            raise OptionError(f"The teacher '{teacher}' is not a network.", "Pass 'original' or a module.")
        return copy.deepcopy(model)
    return teacher


def _drift_images(work: Work) -> DataLoader[Any] | None:
    """Return the first calibration images as a loader of their own, so that every stage sees the same."""
    if work.calibration is None:
        return None
    images, labels, count = [], [], 0
    for batch, target in work.calibration:
        images.append(batch)
        labels.append(target)
        count += len(batch)
        if count >= DRIFT_IMAGES:
            break
    if not images:
        raise DataError("There is no calibration image.", "Give a data set with images.")
    data = TensorDataset(torch.cat(images)[:DRIFT_IMAGES], torch.cat(labels)[:DRIFT_IMAGES])
    return DataLoader(data, batch_size=len(images[0]))


def _finish_stage(
    work: Work,
    course: Course,
    name: StageName,
    target: str | None,
    images: DataLoader[Any] | None,
    reference: torch.Tensor | None,
    start: float,
) -> None:
    """Evaluate the network as it stands and add the stage to the course."""
    drift = agreement = None
    if images is not None and reference is not None:
        drift, agreement = compare_logits(reference, logits(work.model, images, accelerator=work.accelerator))
    top1 = top5 = loss = None
    if work.val is not None:
        scores = evaluate(work.model, work.val, accelerator=work.accelerator, track=work.track)
        top1, top5, loss = scores.top1, scores.top5, scores.loss
    stage = Stage(name, top1, top5, loss, drift, agreement, time.perf_counter() - start, target)
    course.stages.append(stage)
    work.on_stage(stage)


def _record(work: Work, course: Course, targets: tuple[str, ...]) -> Record:
    notes = []
    if work.train is None or work.tuning.epochs == 0:
        notes.append("No fine-tuning was done; the freed channels have learnt nothing yet.")
    elif work.val is None:
        notes.append("Without validation images the figures of the epochs are those of the training images.")
    architecture = getattr(work.model, "surgeon_architecture", None)
    return Record(
        method=work.method.name,
        options=dict(vars(work.config)),
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


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
