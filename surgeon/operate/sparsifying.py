"""Fine-tuning in which channels are made to die before a method lets them start anew (neural rejuvenation)."""

from typing import Any

from torch.optim import Optimizer

from surgeon.edit.plan import Plan, Set
from surgeon.methods.base import Sparsification
from surgeon.operate.carrying import carried_out
from surgeon.operate.course import Course
from surgeon.operate.holding import clear, masks_of, read_back, sets_of, written_down
from surgeon.operate.inputs import Subject, plain_inputs
from surgeon.operate.late import too_late
from surgeon.operate.recalibration import recalibrated
from surgeon.operate.several import agreed
from surgeon.operate.soundness import check_operated
from surgeon.operate.work import Round
from surgeon.tuning import BetweenEpochs, Held, Sparsity, State, TuningConfig
from surgeon.tuning.state import fitting_state

SPARSE, FULL, FREE = "sparsified network", "rejuvenated network", "network without a penalty"
"""What the phases are called: the last one follows a penalty under which nothing has died."""


class Sparsifying:
    """The course of a fine-tuning with a penalty that makes channels die, until they start anew.

    Args:
        subject: the network under its method.
        tuning: the options of the fine-tuning.
        rule: how they are made to die; None where they are not (any more), and what the plan set to zero is only held.
        recalibrate: measure BatchNorm statistics anew whenever channels have started anew during fine-tuning.
        state: what `state` returned in an earlier run with the same arguments, or None.

    Attributes:
        held: what is held at zero at the moment.
        sparsity: the penalty.

    Raises:
        CheckpointError: the state is not one of this run.
    """

    def __init__(
        self,
        subject: Subject,
        tuning: TuningConfig,
        rule: Sparsification | None,
        state: State | None = None,
        *,
        recalibrate: bool = True,
    ) -> None:
        self.held = Held()
        self.sparsity = Sparsity(() if rule is None else rule.scales)
        self._subject = subject
        self._tuning = tuning
        self._rule = rule
        self._recalibrate = recalibrate
        self._rounds = 0
        self._begun = 0
        self._in_use = 1.0 if rule is None else self._measured(rule)[0]
        self._kept: tuple[Set, ...] = ()
        self.begins_with_plan = rule is None and not is_over(state)
        """Whether the plan is made and carried out before the fine-tuning."""
        if rule is not None:
            self._enter(SPARSE)
        if state is not None:
            with fitting_state():
                self._hold(read_back(state["kept"]))
                if not self.begins_with_plan:
                    self._enter(state["phase"])
                self.sparsity.coefficient = float(state["lambda"])
                self._rounds, self._begun = int(state["rounds"]), int(state["begun"])
                self._in_use = float(state["in use"])

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
        """Hold what a plan says is to be held, and nothing else."""
        self._hold(tuple(edit for edit in sets_of(made) if edit.held))

    def between_epochs(self, course: Course, one: Round) -> BetweenEpochs:
        """Return what happens between the epochs: the penalty grows, until there is enough to start anew."""

        rule = self._rule
        if rule is not None:
            latest = min(rule.epochs * rule.rounds, self._tuning.epochs - 1)
            late = too_late(self._tuning, latest, f"When channels start anew, in epoch {latest + 1} at the latest,")
            if late is not None:
                course.remark(late)
                self._subject.say(late)

        def turn(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
            # The network may have become another one since.
            rule = self._rule
            if rule is None or self._rounds == rule.rounds:
                return None
            before = self._in_use
            self._in_use, some_dead = self._measured(rule)
            trace = {"utilization": self._in_use, "lambda": self.sparsity.coefficient}
            if self._in_use >= rule.below and epoch - self._begun < rule.epochs:
                if before - self._in_use <= rule.fall:
                    self.sparsity.coefficient += rule.step
                return trace
            self._rounds, self._begun = self._rounds + 1, epoch
            last = self._rounds == rule.rounds
            if not some_dead:
                # Another round would fail as this one has, did its penalty begin at zero again.
                self.sparsity.coefficient = 0.0 if last else self.sparsity.coefficient + rule.step
                self._enter(SPARSE if not last else FULL if course.edits else FREE)
                return {**trace, "edits": 0, "figures": {}, "skipped": [self._in_vain(course, rule, epoch)]}
            if self._in_use > rule.allowed:
                self._too_large(course, rule, epoch)
            self.sparsity.coefficient = 0.0
            made = self._rejuvenate(epoch, one, optimizer, course, last=last)
            course.note(made, epoch)
            self._enter(FULL if last else SPARSE)
            words = (
                f"From epoch {epoch + 1} on the {self.held.phase} is trained: {trace['utilization']:.1%} of its "
                f"{'parameters' if rule.target == 'params' else 'FLOPs'} were in use."
            )
            self._subject.say(f"{words} {self._subject.method.told(made)}".rstrip())
            return {**trace, "edits": len(made.edits), "figures": dict(made.figures), "skipped": list(made.skipped)}

        return turn

    def _in_vain(self, course: Course, rule: Sparsification, epoch: int) -> str:
        """Tell the reader, and return, that a penalty has ended under which nothing has died."""
        remark = (
            f"No channel that takes part was dead before epoch {epoch + 1}, when a penalty was to end: none has "
            f"started anew then. Penalize them for longer (sparsify={rule.epochs} now), or let the penalty grow "
            "faster: --set sparsify=… or delta_lambda=…."
        )
        course.remark(remark)
        course.skipped[remark] = None
        self._subject.say(remark)
        return remark

    def _too_large(self, course: Course, rule: Sparsification, epoch: int) -> None:
        """Tell the reader that a penalty has ended under which too little has died."""
        counted = "parameters" if rule.target == "params" else "FLOPs"
        remark = (
            f"The {counted} of the network cannot come down to {rule.allowed:g} of what they were: before epoch "
            f"{epoch + 1}, when a penalty was to end, {self._in_use:.1%} were needed for what lived. So no layer has "
            "become wider: dead channels have been dropped, or have started anew where none could be. Penalize them "
            "for longer, let the penalty grow faster, or allow more: --set sparsify=…, delta_lambda=… or resource=…."
        )
        course.remark(remark)
        self._subject.say(remark)

    def _rejuvenate(self, epoch: int, one: Round, optimizer: Optimizer, course: Course, *, last: bool) -> Plan:
        subject, seed = self._subject, one.seed + epoch
        inputs = plain_inputs(subject, one.targets, seed, one.left_alone, last=last)
        made = agreed(lambda: subject.method.make_plan(inputs, subject.config))
        clear(optimizer, subject.model, self.held.masks)
        done = carried_out(subject, made, course, seed, optimizer, last=last)
        check_operated(subject.model, subject.method.name)
        self.hold(done)
        if self._recalibrate:
            recalibrated(subject, done, self._tuning.freeze)
        if not last:
            self._rule = subject.method.sparsification(plain_inputs(subject, one.targets, 0, {}), subject.config)
            assert self._rule is not None
            self.sparsity.names = self._rule.scales
            self._in_use, some_dead = self._measured(self._rule)
            if some_dead:
                remark = (
                    f"Beside the channels that start anew in epoch {epoch + 1} with the initial scale, survivors with "
                    "a scale below a hundredth of it count as dead, and the next time start anew themselves. "
                    "--set rescale=true raises them, wherever that keeps the function."
                )
                course.remark(remark)
                subject.say(remark)
        return done

    def _enter(self, phase: str) -> None:
        """Begin a phase; the weights of a network that is being made sparse are no result."""
        self.held.phase = phase
        self.held.provisional = phase == SPARSE

    def _hold(self, kept: tuple[Set, ...]) -> None:
        self._kept = kept
        self.held.hold(masks_of(kept, self._subject.model))

    def _measured(self, rule: Sparsification) -> tuple[float, bool]:
        """Return which share is needed without the channels that can start anew, and whether there are any."""
        tensors = self._subject.model.state_dict(keep_vars=True)
        dead = rule.dead(tensors)
        return rule.in_use(tensors, dead), bool(dead)


def sparsifying(
    subject: Subject, tuning: TuningConfig, targets: tuple[str, ...], state: State | None, *, recalibrate: bool
) -> Sparsifying | None:
    """Return the course of a method that makes channels die, or holds what it set to zero; None for other methods."""
    # Once it is over, the network may be one in which nothing could be made to die.
    over = is_over(state)
    rule = None if over else subject.method.sparsification(plain_inputs(subject, targets, 0, {}), subject.config)
    if rule is None and not over and not subject.method.holds(subject.config):
        return None
    return Sparsifying(subject, tuning, rule, state, recalibrate=recalibrate)


def is_over(state: State | None) -> bool:
    """Tell whether a run was interrupted after the last of its rounds."""
    return state is not None and state.get("phase") in (FULL, FREE)
