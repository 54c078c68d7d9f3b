"""A plan as named tensors and a JSON text: what a file of it holds. Whoever writes the bytes knows no edits.

The JSON names tensors and counts channel groups and scalings, so that what several edits share is stored once.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member, Part, Scaling
from surgeon.edit.plan import (
    Attend,
    Blend,
    Edit,
    InPlace,
    Mix,
    Plan,
    Reinitialize,
    Reorder,
    Rescale,
    Resize,
    Set,
    Width,
)
from surgeon.errors import PlanError
from surgeon.structure import CrossSets

VERSION = 3
"""Of the format; another one is refused."""

KINDS: Mapping[str, type[InPlace]] = {
    "reorder": Reorder, "mix": Mix, "reinitialize": Reinitialize, "rescale": Rescale, "set": Set, "blend": Blend,
}  # fmt: skip
_KEPT: dict[type[Edit], str] = {kind: word for word, kind in KINDS.items()}
_WORDS: dict[type[Edit], str] = {**_KEPT, Resize: "resize", Attend: "attend"}


def encode(plan: Plan) -> tuple[dict[str, Tensor], str]:
    """Return a plan's tensors by name, on the CPU, and everything else as JSON text.

    Raises:
        PlanError: it gives channels other widths, or layers cross-attention, or an option or a figure is of a type that
            JSON does not have.
    """
    if any(type(edit) not in _KEPT for edit in plan.edits):
        raise PlanError(
            f"The plan of {plan.method} gives channels other widths, or layers cross-attention, and such plans are not "
            "kept in files.",
            "Carry it out at once: the file of the network says what that is built of.",
        )
    return told_apart(plan)


def told_apart(plan: Plan) -> tuple[dict[str, Tensor], str]:
    """Return what `encode` does, also of a plan that is not kept in files: what tells it from others.

    Raises:
        PlanError: an option or a figure is of a type that JSON does not have.
    """
    encoder = _Encoder()
    edits = [encoder.edit(edit, f"edits/{index}") for index, edit in enumerate(plan.edits)]
    content = {
        "version": VERSION,
        "method": plan.method,
        "options": dict(plan.options),
        "targets": plan.targets,
        "figures": dict(plan.figures),
        "skipped": plan.skipped,
        "shapes": {key: list(shape) for key, shape in plan.shapes.items()},
        "groups": encoder.groups,
        "scalings": encoder.scalings,
        "edits": edits,
    }
    try:
        return encoder.tensors, json.dumps(content, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"The plan of {plan.method} has options or figures that JSON cannot express.",
            "Use text, numbers, true, false, None, lists and dictionaries of them.",
        ) from error


class _Encoder:
    """Gives names to tensors and numbers to groups and scalings, to the same ones the same."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.groups: list[dict[str, Any]] = []
        self.scalings: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}
        self._numbers: dict[ChannelGroup | Scaling, int] = {}

    def edit(self, edit: Edit, place: str) -> dict[str, Any]:
        """Return an edit as JSON: its fields under their own names."""
        return {"kind": _WORDS[type(edit)], **self._fields(edit, place)}

    def _fields(self, part: Edit | Width, place: str) -> dict[str, Any]:
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        return {name: self._value(value, f"{place}/{name}") for name, value in values.items()}

    def _value(self, value: Any, place: str) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if isinstance(value, ChannelGroup):
            return self._group(value)
        if isinstance(value, CrossSets):
            return dataclasses.asdict(value)
        if isinstance(value, tuple):
            return [self._fields(width, f"{place}/{number}") for number, width in enumerate(value)]
        return self._scaling(value) if isinstance(value, Scaling) else value

    def _tensor(self, tensor: Tensor, name: str) -> str:
        # By identity: the plan holds on to its tensors, so that no number is given twice.
        known = self._names.setdefault(id(tensor), name)
        if known == name:
            self.tensors[name] = tensor.detach().cpu().contiguous()
        return known

    def _group(self, group: ChannelGroup) -> int:
        if group not in self._numbers:
            place = f"groups/{len(self.groups)}"
            self._numbers[group] = len(self.groups)
            self.groups.append({
                "name": group.name,
                "size": group.size,
                "homogeneous": group.homogeneous,
                "members": [self._axis(member, f"{place}/{index}") for index, member in enumerate(group.members)],
                "writers": [dataclasses.asdict(writer) for writer in group.writers],
            })  # fmt: skip
        return self._numbers[group]

    def _scaling(self, scaling: Scaling) -> int:
        if scaling not in self._numbers:
            place = f"scalings/{len(self.scalings)}"
            self._numbers[scaling] = len(self.scalings)
            self.scalings.append({
                "size": scaling.size,
                "parts": [self._axis(part, f"{place}/{index}") for index, part in enumerate(scaling.parts)],
                "reasons": {key: dict(counts) for key, counts in scaling.reasons.items()},
            })  # fmt: skip
        return self._numbers[scaling]

    def _axis(self, axis: Member | Part, place: str) -> dict[str, Any]:
        values = {field.name: getattr(axis, field.name) for field in dataclasses.fields(axis)}
        if axis.rows is not None:
            values["rows"] = [axis.rows.start, axis.rows.stop]
        return {name: self._value(value, f"{place}/{name}") for name, value in values.items()}
