"""The phases of a fine-tuning in which a method holds a part of the network at zero, and what that part was before."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer

from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Set
from surgeon.errors import DataError, OptionError
from surgeon.methods.base import Inputs, Phase
from surgeon.methods.rounds import missing_rounds
from surgeon.operate.course import Course
from surgeon.operate.holding import before, clear, masks_of, read_back, sets_of, written_down
from surgeon.operate.inputs import Subject, measured_inputs, plain_inputs
from surgeon.operate.late import too_late
from surgeon.operate.several import agreed
from surgeon.operate.soundness import check_operated
from surgeon.operate.work import Round
from surgeon.processes import count
from surgeon.tuning import BetweenEpochs, Held, Sparsity, State, TuningConfig
from surgeon.tuning.state import fitting_state


class Phases:
    """The phases of a run whose method has some.

    Args:
        subject: the network under its method.
        tuning: the options of the fine-tuning.
        state: what `state` returned in an earlier run with the same arguments, or None.

    Attributes:
        held: what is held at zero at the moment.

    Raises:
        OptionError: the phases do not fit into the epochs.
        CheckpointError: the state is not one of this run.
    """

    def __init__(self, subject: Subject, tuning: TuningConfig, state: State | None = None) -> None:
        assert subject.method.phases is not None
        self.held = Held(passing=True)
        self._subject = subject
        self._tuning = tuning
        self._phases = subject.method.phases(subject.config, tuning.epochs)
        self._replaced: tuple[Set, ...] = ()
        self.held.phase = self._phases[0].name
        if state is not None:
            with fitting_state():
                self._hold(read_back(state["replaced"]))
                self.held.phase = state["phase"]

    begins_with_plan = False
    """The first plan is made within the fine-tuning."""

    sparsity: Sparsity | None = None
    """There is no penalty."""

    def hold(self, made: Plan) -> None:
        """Take no notice of a plan that was carried out before."""

    def state(self) -> State:
        """Return what decides how it goes on."""
        return {"phase": self.held.phase, "replaced": written_down(self._replaced)}

    def between_epochs(self, course: Course, one: Round) -> BetweenEpochs:
        """Return what happens between the epochs: where a phase begins, its plan is made and carried out."""
        for remark in self._remarks():
            course.remark(remark)
            self._subject.say(remark)
        starts = {phase.start: phase for phase in self._phases[1:]}
        # What comes back ends the round in which it was dropped.
        rounds = {phase.start: before.round for before, phase in pairwise(self._phases)}

        def turn(epoch: int, optimizer: Optimizer) -> dict[str, Any] | None:
            if epoch not in starts:
                return None
            made = self._begin(starts[epoch], one, optimizer)
            course.note(made, epoch)
            return {
                "phase": starts[epoch].name,
                "round": rounds[epoch],
                "edits": len(made.edits),
                "figures": dict(made.figures),
                "skipped": list(made.skipped),
            }

        return turn

    def _remarks(self) -> Iterator[str]:
        """Yield what a user should know before he waits for the end."""
        missing = missing_rounds(self._subject.config, self._phases)
        if missing is not None:
            yield missing
        last = self._phases[-1].start
        late = too_late(self._tuning, last, f"When the last part comes back, in epoch {last + 1},")
        if late is not None:
            yield late

    def _begin(self, phase: Phase, one: Round, optimizer: Optimizer) -> Plan:
        subject = self._subject
        inputs = self._inputs(phase, one)
        made = agreed(lambda: subject.method.make_plan(inputs, subject.config))
        tensors = subject.model.state_dict()
        # Who has no use for what was there gets the places alone.
        kept = (before(edit, tensors) if subject.method.recalls else edit for edit in sets_of(made))
        replaced = tuple(kept) if phase.holds else ()
        execute(subject.model, made)
        check_operated(subject.model, subject.method.name)
        # Whatever an optimizer does to entries without a gradient, it begins with them anew.
        clear(optimizer, subject.model, self.held.masks)
        self._hold(replaced)
        clear(optimizer, subject.model, self.held.masks)
        self.held.phase = phase.name
        words = f"From epoch {phase.start + 1} on the {phase.name} is trained{self._words(phase)}."
        subject.say(f"{words} {subject.method.told(made)}".rstrip())
        return made

    def _words(self, phase: Phase) -> str:
        if not phase.holds:
            return ""
        entries = sum(int(mask.sum()) for mask in self.held.masks.values())
        everything = sum(parameter.numel() for parameter in self._subject.model.parameters())
        return f": round {phase.round}, {entries:,} of {everything:,} parameters are held at zero"

    def _inputs(self, phase: Phase, one: Round) -> Inputs:
        seed, progress = one.seed + phase.start, phase.start / self._tuning.epochs
        if phase.holds:
            return measured_inputs(self._subject, one.targets, seed, one.left_alone, None, progress).at(phase)
        inputs = plain_inputs(self._subject, one.targets, seed, one.left_alone, None, progress)
        return inputs.at(phase, {edit.tensor: edit for edit in self._replaced})

    def _hold(self, replaced: tuple[Set, ...]) -> None:
        """Hold the entries that were replaced, as far as they are trained."""
        self._replaced = replaced
        self.held.hold(masks_of(replaced, self._subject.model))


def check_phases(subject: Subject, rounds: Sequence[tuple[str, ...]], epochs: int | None) -> None:
    """Refuse what a method with phases could do nothing with, before any work is done.

    Args:
        subject: the network under its method.
        rounds: the targets of every plan.
        epochs: of fine-tuning; None without images to train on.

    Raises:
        DataError: there is nothing to train on.
        OptionError: several processes would have to give the network another structure.
        SurgeonError: the phases do not fit into the epochs, or nothing could be edited.
    """
    method = subject.method
    if count() > 1 and method.restructures(subject.config):
        raise OptionError(
            f"With these options {method.name} gives the network other widths or other layers, which several processes "
            "cannot do together.",
            "Run it in one process, or with options that keep the network what it is.",
        )
    rules = [method.sparsification(plain_inputs(subject, targets, 0, {}), subject.config) for targets in rounds]
    if epochs is None and (method.phases is not None or any(rules)):
        raise DataError(
            f"The method {method.name} edits the network while it is fine-tuned, and there are no images for that.",
            "Give some: --data, or train= in Python.",
        )
    if method.phases is not None and epochs is not None:
        method.phases(subject.config, epochs)
    for rule in filter(None, rules):
        if epochs is not None and rule.epochs * rule.rounds >= epochs:
            raise OptionError(
                f"The {rule.rounds * rule.epochs} epochs in which channels die leave none of {epochs} to learn in.",
                "Give more --epochs (epochs= in Python), or a smaller sparsify or n.",
            )
    for targets in rounds:
        method.check(plain_inputs(subject, targets, 0, {}), subject.config)
