"""The operation of a method on a network: plan, execute, recalibrate, and do it again during fine-tuning."""

import time
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from surgeon.edit.plan import Plan
from surgeon.operate.carrying import carried_out
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject, measured_inputs
from surgeon.operate.partner import Partner
from surgeon.operate.phases import Phases
from surgeon.operate.recalibration import recalibrated
from surgeon.operate.several import agreed
from surgeon.operate.soundness import check_operated
from surgeon.operate.sparsifying import Sparsifying
from surgeon.operate.work import Round, Work, finish
from surgeon.tuning import BetweenEpochs, Held, Sparsity


@dataclass(frozen=True)
class Operation:
    """What a run does to the network beside fine-tuning it, and what it needs for that.

    Attributes:
        work: the run.
        subject: the network under its method.
        partner: the second network of a method that mixes two, or None.
        recalibrate: measure BatchNorm statistics anew after an operation.
        phases: of a method that edits the network during fine-tuning alone, or None.
    """

    work: Work
    subject: Subject
    partner: Partner | None
    recalibrate: bool
    phases: Phases | Sparsifying | None = None

    @property
    def held(self) -> Held | None:
        """What is held at zero during fine-tuning."""
        return None if self.phases is None else self.phases.held

    @property
    def sparsity(self) -> Sparsity | None:
        """A penalty on the BatchNorm scales during fine-tuning."""
        return None if self.phases is None else self.phases.sparsity


def operate(operation: Operation, course: Course, one: Round) -> bool:
    """Plan and execute one round's edits and recalibrate; return whether there was anything to edit, or will be."""
    if operation.phases is not None and not operation.phases.begins_with_plan:
        return True
    start = time.perf_counter()
    made = _carry_out(operation, course, one, one.seed, 0.0)
    course.note(made)
    if not made.edits:
        return False
    if operation.phases is not None:
        operation.phases.hold(made)
    finish(operation.work, course, "operated", one.label, start)
    start = time.perf_counter()
    if _recalibrate(operation, made):
        finish(operation.work, course, "recalibrated", one.label, start)
    return True


def repeated(operation: Operation, course: Course, one: Round) -> BetweenEpochs | None:
    """Return what happens between the epochs of fine-tuning: the operation again, where the method's options say so."""
    if operation.phases is not None:
        return operation.phases.between_epochs(course, one)
    epochs, partner = operation.work.tuning.epochs, operation.partner
    every = getattr(operation.subject.config, "every", None)
    if not every:
        return None
    last = (epochs - 1) // every * every

    def repeat(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
        if partner is not None and epoch <= last:
            # Only as long as there is a mixing left that needs it.
            partner.train_epoch()
        if epoch % every:
            return None
        made = _carry_out(operation, course, one, one.seed + epoch, epoch / epochs, optimizer)
        course.note(made, epoch)
        _recalibrate(operation, made)
        return {"edits": len(made.edits), "figures": dict(made.figures), "skipped": list(made.skipped)}

    return repeat


def _carry_out(
    operation: Operation, course: Course, one: Round, seed: int, progress: float, optimizer: Optimizer | None = None
) -> Plan:
    """Make the plan for the network as it is now, and carry it out (on the partner as well, if it trains along)."""
    subject, partner = operation.subject, operation.partner
    tensors = None if partner is None else partner.tensors
    inputs = measured_inputs(subject, one.targets, seed, one.left_alone, tensors, progress)
    made = agreed(lambda: subject.method.make_plan(inputs, subject.config))
    if partner is not None and partner.trains:
        # Planned before either is edited, so that both are mixed with what the other was.
        partner.plan(one.targets, seed, progress)
    done = carried_out(subject, made, course, seed, optimizer)
    check_operated(subject.model, subject.method.name)
    if partner is not None:
        partner.settle()
    return done


def _recalibrate(operation: Operation, made: Plan) -> bool:
    return operation.recalibrate and recalibrated(operation.subject, made, operation.work.tuning.freeze)
