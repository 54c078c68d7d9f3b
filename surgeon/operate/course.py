"""What has happened in a run so far, and what follows from it for the next target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.plan import Edit, Mix, Plan, Reinitialize, Reorder
from surgeon.operate.record import Stage, edit_rows

SEED_STRIDE = 10_007


@dataclass
class Course:
    """The record in the making."""

    stages: list[Stage] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    edits: list[dict[str, Any]] = field(default_factory=list)
    plan_edits: list[Edit] = field(default_factory=list)
    groups: dict[ChannelGroup, None] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, None] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    def note_changes(self, changes: Sequence[str]) -> None:
        """Add that the run goes on with other values of some options than it had until now."""
        if changes:
            self.changes.append(f"The run was continued with other options than it began with: {', '.join(changes)}.")

    def remark(self, text: str) -> None:
        """Add what a reader of the figures should know, once."""
        if text not in self.changes:
            self.changes.append(text)

    def restructured(self) -> None:
        """Forget the groups that were edited: the network has others now."""
        self.groups.clear()

    def note(self, made: Plan, epoch: int | None = None) -> None:
        """Add a plan that was carried out, at the start of a target or (with `epoch`) during fine-tuning."""
        self.edits += edit_rows(made, epoch)
        self.skipped.update(dict.fromkeys(made.skipped))
        if epoch is None:
            self.plan_edits += made.edits
            moved = (edit.group for edit in made.edits if isinstance(edit, (Reorder, Mix, Reinitialize)))
            self.groups.update(dict.fromkeys(moved))
            self.figures.update(made.figures)


def round_seed(seed: int, place: int) -> int:
    """Return the seed of the plan of the round at this place."""
    return seed + SEED_STRIDE * place


def left_alone(
    graph: CouplingGraph, earlier: Sequence[tuple[str, ...]], targets: tuple[str, ...], course: Course
) -> Mapping[ChannelGroup, str]:
    """Return the groups that these targets may not edit: those edited before, and those with frozen weights."""
    if not earlier:
        return {}
    reasons = dict.fromkeys(course.groups, "they are edited by an earlier target already")
    frozen = {tensor for names in earlier for name in names for tensor in graph.outputs.tensors_before(name)}
    for group in (group for target in targets for group in graph.at(target)):
        writers = [member.tensor for member in group.members if member.role == "producer"]
        if group not in reasons and frozen.intersection(writers):
            reasons[group] = "some of their weights are frozen after an earlier target"
    return reasons
