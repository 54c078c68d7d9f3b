"""Where a run stands among its rounds, and the rest of what it keeps beside the fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.operate.course import Course
from surgeon.operate.keeping import Keeper, course_state, taken
from surgeon.operate.operation import Operation
from surgeon.operate.structures import structure_state
from surgeon.tuning import State
from surgeon.tuning.position import place_of, put_back
from surgeon.tuning.state import fitting_state


@dataclass(frozen=True)
class Position:
    """The round that a run is in.

    Attributes:
        graph: the network's coupling graph.
        place: of the round, from 0.
        last: the last round before it that edited anything, or None.
        left_alone: groups that the round may not edit, each with the reason.
    """

    graph: CouplingGraph
    place: int = 0
    last: int | None = None
    left_alone: Mapping[ChannelGroup, str] = field(default_factory=dict)

    def frozen(self, plans: Sequence[tuple[str, ...]]) -> frozenset[str]:
        """Return the tensors before the targets of the last round that edited anything."""
        names = () if self.last is None else plans[self.last]
        return frozenset(key for name in names for key in self.graph.outputs.tensors_before(name))

    def state(self) -> State:
        """Return it as plain values; groups as their places in the graph."""
        places = {group: place for place, group in enumerate(self.graph.groups)}
        alone = [(places[group], reason) for group, reason in self.left_alone.items() if group in places]
        return {"place": self.place, "last": self.last, "left_alone": alone}


def restored_position(state: State, graph: CouplingGraph) -> Position:
    """Return the position that `Position.state` has written down.

    Raises:
        CheckpointError: it is not a position in such a run.
    """
    with fitting_state():
        alone = {graph.groups[place]: str(reason) for place, reason in state["left_alone"]}
        last = state["last"]
        return Position(graph, int(state["place"]), None if last is None else int(last), alone)


def keep_operation(keeper: Keeper, operation: Operation, course: Course, images: Any) -> None:
    """Let a run keep what its operation decides, and put the images to measure on where they were.

    Args:
        keeper: of the run.
        operation: what it does beside fine-tuning.
        course: what has happened so far.
        images: the batches to measure on, as they were given.

    Raises:
        CheckpointError: the state that the run goes on from is not one of such a run.
    """
    subject, partner, phases = operation.subject, operation.partner, operation.phases
    kept = taken(keeper, "images")
    if kept is not None:
        with fitting_state():
            put_back(images, kept)
    keeper.parts |= {
        "course": lambda: course_state(course, subject.graph),
        "images": lambda: place_of(images),
        "partner": lambda: None if partner is None else partner.state(),
        "phases": lambda: None if phases is None else phases.state(),
        "structure": lambda: structure_state(subject.model),
    }
