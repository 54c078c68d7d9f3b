"""Carry out a plan that was made before, in place of making one; the rest of the run is that of `apply`."""

import dataclasses
import time
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.coupling.graph import CouplingGraph
from surgeon.edit.execute import execute
from surgeon.errors import PlanError
from surgeon.methods import make_config
from surgeon.operate.apply import (
    OnBest,
    OnEpoch,
    OnStage,
    Round,
    Work,
    _finish,
    _operate,
    _record,
    _teacher,
    _tune,
)
from surgeon.operate.course import Course
from surgeon.operate.inputs import Batches, Say, Subject, find_method
from surgeon.operate.record import Record
from surgeon.operate.stages import Gauge
from surgeon.operate.stored_plan import StoredPlan
from surgeon.progress import Track
from surgeon.tuning import TuningConfig

REMEDY = "Make the plan anew for this network."


def rehearse(model: nn.Module, stored: StoredPlan) -> None:
    """Carry a plan out on a network and take it back, so that one that does not fit is refused before any work.

    Raises:
        PlanError: the plan does not fit the network.
    """
    modules = {name for name, _ in model.named_modules()}
    if not modules.issuperset(stored.plan.targets):
        raise PlanError(f"The plan in {stored.path} is for modules that the network does not have.", REMEDY)
    tensors = model.state_dict(keep_vars=True)
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        execute(model, stored.plan)
    except (RuntimeError, IndexError, KeyError) as error:
        # A plan for another network is refused by name; only one that was made up comes this far.
        raise PlanError(f"The plan in {stored.path} cannot be carried out on this network.", REMEDY) from error
    finally:
        for key, tensor in tensors.items():
            tensor.data.copy_(before[key])


def replay(
    model: nn.Module,
    stored: StoredPlan,
    *,
    graph: CouplingGraph,
    train: DataLoader[Any] | None,
    val: DataLoader[Any] | None,
    calibration: Batches | None,
    epochs: int,
    tuning: TuningConfig,
    teacher: nn.Module | str | None,
    recalibrate: bool,
    seed: int,
    accelerator: Accelerator,
    track: Track,
    say: Say,
    on_stage: OnStage,
    on_epoch: OnEpoch,
    on_best: OnBest,
) -> Record:
    """Carry out a stored plan in place, once and as a whole, fine-tune the network, and return the record.

    Args:
        model: the network.
        stored: the plan.
        graph: the network's coupling graph.
        train: see `apply`, as for all others.

    Raises:
        SurgeonError: as for `execute`, and as for `tune`.
    """
    plan = stored.plan
    method = find_method(plan.method)
    config = make_config(method, stored.options)
    # A method that measures nothing and always decides what was decided before.
    decided = dataclasses.replace(
        method, make_plan=lambda inputs, config: plan, measures=lambda config: None, needs_partner=False
    )
    settings = dataclasses.replace(tuning, epochs=epochs, seed=seed)
    model.to(accelerator.device)
    images = calibration if calibration is not None else train
    subject = Subject(model, decided, config, graph, images, accelerator.device, track, say)
    teaching = _teacher(model, teacher)
    start = time.perf_counter()
    gauge = Gauge(model, val, images, accelerator, track)
    work = Work(
        subject,
        accelerator,
        train,
        val,
        settings,
        teaching,
        None,
        recalibrate,
        seed,
        gauge,
        on_stage,
        on_epoch,
        on_best,
    )
    course = Course()
    _finish(work, course, "original", None, start)
    once = Round(plan.targets, seed, {}, frozenset())
    if _operate(work, course, once) and train is not None and epochs > 0:
        _tune(work, course, once, train)
    return _record(work, course, plan.targets)
