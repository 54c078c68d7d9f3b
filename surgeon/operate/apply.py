"""The main job on a network in memory: measure, plan, execute, recalibrate, fine-tune, and write down every stage."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.coupling.graph import CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.edit.plan import Plan
from surgeon.memory import named_shortage
from surgeon.methods import make_config
from surgeon.operate.course import Course, left_alone, round_seed
from surgeon.operate.identity import run_identity
from surgeon.operate.inputs import Batches, Say, Subject, find_method, rounds
from surgeon.operate.keeping import epochs_over, open_keeper, restored_course, taken
from surgeon.operate.operation import Operation, operate, repeated
from surgeon.operate.partner import Partner
from surgeon.operate.phases import Phases, check_phases
from surgeon.operate.position import Position, keep_operation, restored_position
from surgeon.operate.record import Record
from surgeon.operate.replay import replayed
from surgeon.operate.several import placed
from surgeon.operate.soundness import check_sound
from surgeon.operate.sparsifying import Sparsifying, sparsifying
from surgeon.operate.structures import restore_structure
from surgeon.operate.task import InputsOf, Task
from surgeon.operate.work import (
    OnBest,
    OnEpoch,
    OnResume,
    OnStage,
    Round,
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
from surgeon.tuning.freeze import untrained_names


@named_shortage()
def apply(
    model: nn.Module,
    method: str = "sofm",
    layers: Sequence[str] | str = (),
    *,
    train: DataLoader[Any] | None = None,
    val: DataLoader[Any] | None = None,
    calibration: Batches | None = None,
    loss: BatchLoss | None = None,
    metric: Metric | None = None,
    inputs: InputsOf | None = None,
    epochs: int = 10,
    tuning: TuningConfig | None = None,
    teacher: nn.Module | str | None = None,
    partner: nn.Module | None = None,
    plan: Plan | None = None,
    recalibrate: bool = True,
    reference: nn.Module | None = None,
    compared: bool = True,
    synthetic: bool = False,
    seed: int = 0,
    example_input: Any = None,
    graph: CouplingGraph | None = None,
    accelerator: Accelerator | None = None,
    track: Track = no_progress,
    say: Say = lambda text: None,
    on_stage: OnStage = lambda stage: None,
    on_epoch: OnEpoch = lambda record: None,
    on_best: OnBest = lambda epoch, state: None,
    on_resume: OnResume = lambda epochs: None,
    state: Path | None = None,
    save_every: int | None = None,
    resume_changed: bool = False,
    identity: Mapping[str, Any] | None = None,
    **options: Any,
) -> Record:
    """Apply a method to a network in place, fine-tune it, and return the record.

    A method that takes one module at a time operates on each and fine-tunes in turn, with everything before it frozen
    (SOFM paper, the experiments with layers 4 and 5).

    Several processes that `torchrun` or `accelerate launch` started work together: each calls this with the same
    arguments, and all begin with the main one's weights and end with the same.

    Args:
        model: the network; its weights change, and its structure only where the method's options ask for that.
        method: a name in the table of methods.
        layers: module names and globs; none means the method's own choice, see `plan`.
        train: batches for fine-tuning; without them, or with `epochs=0`, there is none.
        val: batches for top-1, top-5 and loss at every stage; without them there are no such figures.
        calibration: batches for measuring and recalibration, `train` by default; best without random augmentation.
        loss: for another task than classification: `loss(model, batch)` passes a batch of any structure through the
            network and returns the mean loss of its images, a scalar. It is called with the network in training mode,
            under autocast, and the batch on the network's device.
        metric: `metric(model, batches)` passes all of the validation batches through the network and returns figures by
            name, of which the first says which epoch is best; see `surgeon.tuning.Metric`. Without it the figures are
            top-1, top-5 and loss, or with `loss` its mean, for which it is called in evaluation mode as well.
        inputs: for batches that are not `(images, …)`: `inputs(batch)` returns what the network is called with, float
            `[B, C, H, W]`, from a batch of `train` or `calibration` as the loader gives it. Such images have no labels.
        epochs: epochs of fine-tuning after each operation.
        tuning: all other options of fine-tuning; its `epochs` and `seed` are replaced by the arguments.
        teacher: `original` distils from the network as it came, a module from that one.
        partner: a second network of the same architecture, for methods that mix two. Where the operation repeats
            (`every`), it is trained along and mixed in turn; otherwise it stays as it is.
        plan: carry this plan out, once and as a whole, in place of making one; `method`, `layers` and `options` are
            then the plan's, and the arguments of these names are not looked at.
        recalibrate: measure the BatchNorm statistics anew after the operation, where there is data.
        reference: the network that answers are compared with for agreement and drift; `model` as it came by default.
        compared: measure agreement and drift; False for a network that came with random weights, say.
        synthetic: `train` and `calibration` are images that nobody took. Their labels are no measure then: the scores
            of the epochs, where there is no `val`, are agreement with and drift from the network as it came, and no
            epoch is the best.
        seed: seed of everything random.
        example_input: see `trace`.
        graph: the network's coupling graph; traced where there is none.
        accelerator: device and precision; one is made where none is given.
        track: is told of every batch.
        say: is told how long a slow measurement will take.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        on_best: called after fine-tuning with the number and the weights of the best epoch, where it is not the last.
        on_resume: called first of all, where the run goes on from a state, with the number of epochs that are over, of
            all targets together. Their figures are not reported again.
        state: a folder that keeps the state of the run after every epoch of fine-tuning. The same call with the same
            folder goes on from there if this one did not come to its end, and on a CPU ends with bitwise the same
            weights as if it had. The folder is left to whoever gave it.
        save_every: updates of the weights between two states within an epoch; None for none there.
        resume_changed: go on even where what helps a run that has diverged (`surgeon.tuning.config.CHANGEABLE`), the
            kind of the device, the number of processes (with as many images a batch of all of them together), FSDP, or
            the versions of surgeon, torch and timm have changed since; the record says so.
        identity: what else tells this run from others, such as the names of its images.
        options: the method's options.

    Raises:
        SurgeonError: as for `plan`, and as for `tune`.
        OutputError: the folder keeps the state of another run, or cannot be written to.
    """
    if plan is None:
        chosen = find_method(method)
        config = make_config(chosen, options)
    else:
        chosen, config = replayed(plan)
    task = Task(loss, metric, inputs)
    task.check_measurable(chosen, config, labelled=calibration is not None)
    settings = dataclasses.replace(tuning or TuningConfig(), epochs=epochs, seed=seed)
    accelerator = accelerator or make_accelerator(settings.mixed_precision, accumulate=settings.accumulate)
    settings = dataclasses.replace(settings, accumulate=accumulation(accelerator, settings.accumulate))
    check_sound(model)
    if partner is not None:
        check_sound(partner, "partner")
    graph = graph or trace(model, example_input)
    plans = rounds(chosen, graph, layers) if plan is None else (plan.targets,)
    placed(model, accelerator)
    teaching = find_teacher(model, teacher)
    measured = calibration if calibration is not None else train
    images = task.measured(measured)
    frozen = untrained_names(model, settings.freeze) if train is not None and epochs else ()
    subject = Subject(model, chosen, config, graph, images, accelerator.device, track, say, frozen, example_input)
    check_phases(subject, plans, None if train is None else epochs)
    start = time.perf_counter()
    keeper = open_keeper(
        state,
        lambda: run_identity(
            model,
            settings,
            accelerator,
            train,
            teacher=teaching,
            partner=partner,
            plan=plan,
            others={
                "method": chosen.name,
                "options": vars(config),
                "targets": plans,
                "recalibrate": recalibrate,
                "identity": identity,
            },
        ),
        save_every,
        say,
        changed=resume_changed,
    )
    if keeper is not None and keeper.state is not None:
        on_resume(epochs_over(keeper.state))
    gauge = make_gauge(model, task, val, images if compared else None, accelerator, track, reference)
    restore_structure(keeper, subject)
    course = restored_course(taken(keeper, "course"), subject.graph)
    course.note_changes(() if keeper is None else keeper.changes)
    with contextlib.ExitStack() as stack:
        second = None
        if partner is not None and chosen.needs_partner:
            second = Partner(partner, subject, train, settings, accelerator, loss, taken(keeper, "partner"))
            stack.callback(second.close)
        work = Work(
            model, task, accelerator, train, val, settings, teaching, synthetic, seed, gauge, track, on_stage, on_epoch,
            on_best, keeper,
        )  # fmt: skip
        if not course.stages:
            finish(work, course, "original", None, start)
        kept = taken(keeper, "phases")
        if chosen.phases:
            phases: Phases | Sparsifying | None = Phases(subject, settings, kept)
        else:
            phases = sparsifying(subject, settings, plans[0], kept, recalibrate=recalibrate)
        operation = Operation(work, subject, second, recalibrate, phases)
        if keeper is not None:
            keep_operation(keeper, operation, course, measured)
        _run(operation, course, plans)
        return make_record(
            work,
            course,
            chosen.name,
            options=dict(vars(config)),
            targets=tuple(target for targets in plans for target in targets),
            partner=None if second is None else {"trained": second.trains},
        )


def _run(operation: Operation, course: Course, plans: Sequence[tuple[str, ...]]) -> None:
    """Operate on every round's targets and fine-tune, with everything before them frozen."""
    work, graph = operation.work, operation.subject.graph
    parameters = {name for name, _ in work.model.named_parameters()}
    kept = taken(work.keeper, "round")
    position = Position(graph) if kept is None else restored_position(kept, graph)
    for number in range(position.place, len(plans)):
        targets = plans[number]
        if kept is None:
            alone = left_alone(graph, plans[:number], targets, course)
            position = Position(graph, number, position.last, alone)
        one = Round(targets, round_seed(work.seed, number), position.left_alone, position.frozen(plans))
        if work.keeper is not None:
            work.keeper.parts["round"] = position.state
        if kept is not None or operate(operation, course, one):
            frozen, held = parameters.intersection(one.frozen), operation.held
            fine_tune(work, course, one.label, frozen, repeated(operation, course, one), held, operation.sparsity)
            position = dataclasses.replace(position, last=number)
        kept = None
