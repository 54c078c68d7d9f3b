"""Fine-tuning in which channels are made to die before a method lets them start anew (neural rejuvenation)."""

from typing import Any

from torch.optim import Optimizer

from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Set
from surgeon.measure.utilization import shares_in_use
from surgeon.methods.base import Sparsification
from surgeon.operate.course import Course
from surgeon.operate.holding import clear, masks_of, read_back, sets_of, written_down
from surgeon.operate.inputs import Subject, plain_inputs
from surgeon.operate.moments import forget
from surgeon.operate.several import agreed
from surgeon.operate.work import Round
from surgeon.tuning import BetweenEpochs, Held, Sparsity, State
from surgeon.tuning.state import fitting_state

SPARSE, FULL = "sparsified network", "rejuvenated network"
"""What the phases are called."""


class Sparsifying:
    """The course of a fine-tuning with a penalty that makes channels die, until they start anew.

    Args:
        subject: the network under its method.
        rule: how they are made to die; None where they are not, and what the plan set to zero is only held.
        state: what `state` returned in an earlier run with the same arguments, or None.

    Attributes:
        held: what is held at zero at the moment.
        sparsity: the penalty.

    Raises:
        CheckpointError: the state is not one of this run.
    """

    def __init__(self, subject: Subject, rule: Sparsification | None, state: State | None = None) -> None:
        self.held = Held()
        self.sparsity = Sparsity(() if rule is None else rule.scales)
        self._subject = subject
        self._rule = rule
        self._rounds = 0
        self._begun = 0
        self._in_use = 1.0 if rule is None else self._measured(rule)
        self._kept: tuple[Set, ...] = ()
        self.held.phase = None if rule is None else SPARSE
        if state is not None:
            with fitting_state():
                self._hold(read_back(state["kept"]))
                self.held.phase, self.sparsity.coefficient = state["phase"], float(state["lambda"])
                self._rounds, self._begun = int(state["rounds"]), int(state["begun"])
                self._in_use = float(state["in use"])

    @property
    def begins_with_plan(self) -> bool:
        """Whether the plan is made and carried out before the fine-tuning."""
        return self._rule is None

    def state(self) -> State:
        """Return what decides how it goes on."""
        return {
            "phase": self.held.phase,
            "lambda": self.sparsity.coefficient,
            "rounds": self._rounds,
            "begun": self._begun,
            "in use": self._in_use,
            "kept": written_down(self._kept),
        }

    def hold(self, made: Plan) -> None:
        """Hold what a plan has set to zero, where the method's options say so."""
        if self._subject.method.holds(self._subject.config):
            zero = (edit for edit in sets_of(made) if not edit.values.any())
            self._hold(tuple(zero))

    def between_epochs(self, course: Course, one: Round) -> BetweenEpochs:
        """Return what happens between the epochs: the penalty grows, until there is enough to start anew."""

        def turn(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
            rule = self._rule
            if rule is None or self._rounds == rule.rounds:
                return None
            before, self._in_use = self._in_use, self._measured(rule)
            trace = {"utilization": self._in_use, "lambda": self.sparsity.coefficient}
            if self._in_use >= rule.below and epoch - self._begun < rule.epochs:
                if before - self._in_use < rule.fall:
                    self.sparsity.coefficient += rule.step
                return trace
            made = self._rejuvenate(epoch, one, optimizer)
            course.note(made, epoch)
            self._rounds, self._begun = self._rounds + 1, epoch
            self.held.phase = FULL if self._rounds == rule.rounds else SPARSE
            self._in_use = self._measured(rule)
            self._subject.say(
                f"From epoch {epoch + 1} on the {self.held.phase} is trained: {trace['utilization']:.1%} of its "
                f"{'parameters' if rule.target == 'params' else 'FLOPs'} were in use."
            )
            return {**trace, "edits": len(made.edits), "figures": dict(made.figures), "skipped": list(made.skipped)}

        return turn

    def _rejuvenate(self, epoch: int, one: Round, optimizer: Optimizer) -> Plan:
        subject = self._subject
        inputs = plain_inputs(subject, one.targets, one.seed + epoch, one.left_alone)
        made = agreed(lambda: subject.method.make_plan(inputs, subject.config))
        clear(optimizer, subject.model, self.held.masks)
        execute(subject.model, made)
        forget(optimizer, subject.model, made)
        self.sparsity.coefficient = 0.0
        self.hold(made)
        return made

    def _hold(self, kept: tuple[Set, ...]) -> None:
        self._kept = kept
        self.held.hold(masks_of(kept, self._subject.model))

    def _measured(self, rule: Sparsification) -> float:
        parameters, flops = shares_in_use(self._subject.graph, self._subject.model.state_dict(keep_vars=True))
        return parameters if rule.target == "params" else flops


def sparsifying(subject: Subject, targets: tuple[str, ...], state: State | None) -> Sparsifying | None:
    """Return the course of a method that makes channels die, or holds what it set to zero; None for other methods."""
    rule = subject.method.sparsification(plain_inputs(subject, targets, 0, {}), subject.config)
    if rule is None and not subject.method.holds(subject.config):
        return None
    return Sparsifying(subject, rule, state)
