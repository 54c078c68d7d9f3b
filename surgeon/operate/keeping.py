"""What a run keeps on the disk of its course, so that the same run can go on from there another time."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.coupling.graph import CouplingGraph
from surgeon.errors import OptionError, StateError
from surgeon.operate.course import Course
from surgeon.operate.identity import Identity
from surgeon.operate.inputs import Say
from surgeon.operate.record import Stage
from surgeon.operate.several import main_decides
from surgeon.operate.states import StateFolder
from surgeon.processes import everyones, from_main
from surgeon.tuning import Saving, State
from surgeon.tuning.state import fitting_state

REMEDY = "Go on nevertheless with --resume-changed (in Python: resume_changed=True), or begin anew with --restart."


@dataclass
class Keeper:
    """Keeps the states of one run, and gives back the one that it goes on from.

    Attributes:
        folder: where.
        identity: tells the run from others.
        every: updates between two states within an epoch, or None.
        state: what an earlier, interrupted run has kept; None once it was taken up, or where there is none.
        changes: what the earlier run had another value of, in words.
        parts: what is asked for the rest of a state, by its name in it.
    """

    folder: StateFolder
    identity: Identity
    every: int | None
    state: State | None
    changes: tuple[str, ...] = ()
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def hand_over(self) -> State:
        """Return the part of the earlier state that a fine-tuning goes on from; nothing else holds any of it then."""
        tuning: State = taken(self, "tuning")
        self.state = None
        return tuning

    def saving(self, label: str | None, epochs: int, start: float) -> Saving:
        """Return what takes the states of a fine-tuning.

        Args:
            label: the targets that were operated on before, in words, or None.
            epochs: how many it has.
            start: `time.perf_counter()` when it began.
        """

        def write(tuning: State) -> None:
            rest = {name: part() for name, part in self.parts.items()}
            seconds = time.perf_counter() - start
            identity = {"terms": dict(self.identity.terms), "fixed": dict(self.identity.fixed)}
            of_run = {**identity, "label": label, "of": epochs, "seconds": seconds}
            self.folder.write(self.identity.digest, {"tuning": tuning, **of_run, **rest})

        return Saving(write, self.every)


def taken(keeper: Keeper | None, part: str) -> Any:
    """Return a part of the state that a run goes on from, or None where it begins anew.

    Raises:
        CheckpointError: the state has no such part.
    """
    if keeper is None or keeper.state is None:
        return None
    with fitting_state():
        return keeper.state[part]


def open_keeper(
    path: Path | None, identity: Callable[[], Identity], every: int | None, say: Say, *, changed: bool = False
) -> Keeper | None:
    """Return what keeps a run's states in a folder, with the newest of them; None without a folder.

    Of several processes the main one decides whether they go on, and from which state.

    Args:
        path: the folder, or None.
        identity: returns what tells the run from others.
        every: updates between two states within an epoch, at least 1, or None.
        say: is told where the run goes on, and of damaged states.
        changed: go on from a state even where terms of the run have changed since; see `Identity`.

    Raises:
        OptionError: `every` is out of range, or there is no folder for it.
        StateError: the folder keeps the state of another run, or none that is sound.
        CheckpointError: the state is not as this version of surgeon writes it.
    """
    if every is not None and (path is None or every < 1):
        raise OptionError(
            f"A state every {every} updates is asked for, which cannot be.",
            "Give a number of at least 1, and a folder.",
        )
    if path is None:
        return None
    folder, own = StateFolder(path), identity()
    found: list[State] = []

    def decide() -> tuple[str, str, tuple[str, ...]] | None:
        state = folder.newest(own.digest, say, lambda state: own.differences(state["fixed"]))
        if state is None:
            return None
        with fitting_state():
            where, mark, changes = _where(state), state["mark"], own.changes(state["terms"])
        if changes and not changed:
            raise StateError(f"The folder {path} keeps the state of a run with {', '.join(changes)}.", REMEDY)
        found.append(state)
        return where, mark, changes

    decision = main_decides(decide)
    if decision is None:
        return Keeper(folder, own, every, None)
    where, mark, changes = decision
    say(where)
    if changes:
        say(f"It began with {', '.join(changes)}.")
    return Keeper(folder, own, every, _everywhere(found[0] if found else folder.marked(mark)), changes)


def _everywhere(state: State | None) -> State | None:
    """Return the main process's state in all of them, and send it only where one does not find it on its own disk."""
    return state if all(everyones(state is not None)) else from_main(state)


def epochs_over(state: State) -> int:
    """Return how many epochs of fine-tuning are over in a state, of all targets together."""
    with fitting_state():
        return len(state["course"]["epochs"]) + len(state["tuning"]["epochs"])


def _where(state: State) -> str:
    """Return the line that says where a run goes on."""
    tuning, label = state["tuning"], state["label"]
    at = f" of {label}" if label else ""
    epochs, begun = len(tuning["epochs"]), tuning["epoch"]
    if begun is None and epochs == state["of"]:
        return f"The run continues after epoch {epochs} of {epochs}{at}."
    batch = "" if begun is None else f", after batch {begun[0]['batches']}"
    return f"The run continues at epoch {epochs + 1} of {state['of']}{at}{batch}."


def course_state(course: Course, graph: CouplingGraph | None = None) -> State:
    """Return a course as plain values; its channel groups as their places in the graph."""
    places = {} if graph is None else {group: place for place, group in enumerate(graph.groups)}
    return {
        "stages": [dataclasses.asdict(stage) for stage in course.stages],
        "epochs": course.epochs,
        "edits": course.edits,
        "groups": [places[group] for group in course.groups if group in places],
        "figures": course.figures,
        "skipped": list(course.skipped),
        "changes": list(course.changes),
    }


def restored_course(state: State | None, graph: CouplingGraph | None = None) -> Course:
    """Return the course that `course_state` has written down, or a new one without it.

    Raises:
        CheckpointError: it is not the course of such a run.
    """
    if state is None:
        return Course()
    groups = () if graph is None else graph.groups
    with fitting_state():
        return Course(
            stages=[Stage(**stage) for stage in state["stages"]],
            epochs=list(state["epochs"]),
            edits=list(state["edits"]),
            groups=dict.fromkeys(groups[place] for place in state["groups"]),
            figures=dict(state["figures"]),
            skipped=dict.fromkeys(state["skipped"]),
            changes=list(state["changes"]),
        )
