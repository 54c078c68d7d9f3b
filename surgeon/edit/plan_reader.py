"""Make a plan of what a file holds. The file is not trusted: nothing that it says is used before it is checked.

What depends on the network (that a tensor exists, and is large enough) is checked by `execute`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member, Norm, Part, Role, Scaling, Writer
from surgeon.edit.mix import foldable
from surgeon.edit.plan import Blend, Edit, InPlace, Mix, Plan, Reinitialize, Reorder, Rescale, Set
from surgeon.edit.plan_file import KINDS, VERSION
from surgeon.edit.untrusted import LARGEST, Node, parse
from surgeon.errors import PlanError

MOST_AXES = 64
LARGEST_EPS = 1e6
MOST_PLACES = 2**28
"""Positions that all edits together may touch: a small file could name one large group very often."""

SAID = re.compile(r"[\w ,.'-]*")
"""What a plan may say about values: no brackets, which terminals' markup is made of."""

WHOLE = (torch.int64, torch.int32)
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}
CONSUMERS: Mapping[str, Literal["random", "zero", "keep"]] = {"random": "random", "zero": "zero", "keep": "keep"}
FIELDS = ("version", "method", "options", "targets", "figures", "skipped", "shapes", "groups", "scalings", "edits")


def decode(tensors: Mapping[str, Tensor], text: str, origin: str, most_places: int = MOST_PLACES) -> Plan:
    """Return the plan that `encode` has written down.

    Args:
        tensors: by name.
        text: JSON.
        origin: where both come from, for messages.
        most_places: positions that all edits together may touch.

    Raises:
        PlanError: anything in it is unknown, malformed, out of range or does not fit the rest.
    """
    root = parse(text, origin)
    if isinstance(root.value, dict) and root.value.get("version", VERSION) != VERSION:
        raise PlanError(f"{origin} has a plan of another format than {VERSION}.", "Use the version that wrote it.")
    parts = root.fields(*FIELDS)
    decoder = _Decoder(tensors, most_places)
    decoder.groups = tuple(decoder.group(node) for node in parts["groups"].entries())
    decoder.scalings = tuple(decoder.scaling(node) for node in parts["scalings"].entries())
    return Plan(
        method=parts["method"].name(),
        options=parts["options"].named(Node.setting),
        targets=tuple(node.name() for node in parts["targets"].entries()),
        edits=decoder.edits(parts["edits"]),
        figures=parts["figures"].named(lambda node: node.named(Node.plain)),
        skipped=tuple(node.text() for node in parts["skipped"].entries()),
        shapes=parts["shapes"].named(_shape),
    )


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(entry.whole(0, LARGEST) for entry in node.entries())


class _Decoder:
    """Reads one file's groups, scalings and edits, in this order."""

    def __init__(self, tensors: Mapping[str, Tensor], most_places: int) -> None:
        self.groups: tuple[ChannelGroup, ...] = ()
        self.scalings: tuple[Scaling, ...] = ()
        self._tensors = tensors
        self._most_places = most_places

    def edits(self, node: Node) -> tuple[Edit, ...]:
        """Return all edits, unless they touch more positions than any network has."""
        readers: dict[type[InPlace], Callable[[Node], InPlace]] = {
            Reorder: self._reorder,
            Mix: self._mix,
            Reinitialize: self._reinitialize,
            Rescale: self._rescale,
            Set: self._set,
            Blend: self._blend,
        }
        edits: list[InPlace] = []
        places = 0
        for entry in node.entries():
            edit = readers[_kind(entry)](entry)
            places += _places(edit)
            if places > self._most_places:
                raise node.refusal(f"about less than {self._most_places} positions")
            edits.append(edit)
        return tuple(edits)

    def group(self, node: Node) -> ChannelGroup:
        parts = node.fields("name", "size", "homogeneous", "members", "writers")
        size = parts["size"].whole(1, LARGEST)
        members = tuple(self._member(entry, size) for entry in parts["members"].entries())
        if not members:
            raise parts["members"].refusal("a list of at least one tensor axis")
        writers = tuple(_writer(entry) for entry in parts["writers"].entries())
        return ChannelGroup(parts["name"].name(), size, members, parts["homogeneous"].truth(), writers)

    def scaling(self, node: Node) -> Scaling:
        parts = node.fields("size", "parts", "reasons")
        size = parts["size"].whole(1, LARGEST)
        taken = tuple(self._part(entry, size) for entry in parts["parts"].entries())
        return Scaling(size, taken, parts["reasons"].named(lambda node: node.named(_count)))

    def _member(self, node: Node, size: int) -> Member:
        parts = node.fields("tensor", "dim", "role", "positions", "rows")
        dim, rows = parts["dim"].whole(0, MOST_AXES), parts["rows"].optional(_rows)
        limit = rows.stop - rows.start if rows is not None and dim == 0 else LARGEST
        positions = self._indices(parts["positions"], 2, limit)
        if positions.shape[0] != size or not positions.numel():
            raise parts["positions"].refusal(f"a tensor with a row for each of {size} channels")
        return Member(parts["tensor"].name(), dim, parts["role"].choice(ROLES), positions, rows)

    def _part(self, node: Node, size: int) -> Part:
        parts = node.fields("tensor", "dim", "rows", "scale", "divided")
        dim, rows = parts["dim"].whole(0, MOST_AXES), parts["rows"].optional(_rows)
        if rows is not None and dim == 0:
            raise parts["rows"].refusal("null, as it is for axis 0")
        scale = self._indices(parts["scale"], 1, size, low=-1)
        return Part(parts["tensor"].name(), dim, rows, scale, parts["divided"].truth())

    def _reorder(self, node: Node) -> Reorder:
        parts = node.fields("kind", "group", "permutation")
        group = self._group(parts["group"])
        permutation = self._places(parts["permutation"], group.size)
        if len(permutation) != group.size:
            raise parts["permutation"].refusal(f"a permutation of {group.size} channels")
        return Reorder(group, permutation)

    def _mix(self, node: Node) -> Mix:
        parts = node.fields("kind", "group", "channels", "producers", "consumers", "folded")
        group = self._group(parts["group"])
        channels = self._places(parts["channels"], group.size)
        shape = (len(channels), group.size)
        producers, consumers = self._weights(parts["producers"], shape), self._weights(parts["consumers"], shape)
        folded = parts["folded"].truth()
        if folded and not all(_has_places(group, writer) for writer in foldable(group)):
            raise parts["group"].refusal("a group whose BatchNorms can be folded")
        return Mix(group, channels, producers, consumers, folded)

    def _reinitialize(self, node: Node) -> Reinitialize:
        parts = node.fields("kind", "group", "channels", "consumers", "seed")
        group = self._group(parts["group"])
        channels = self._places(parts["channels"], group.size)
        consumers = parts["consumers"]
        seed = parts["seed"].whole(0, LARGEST)
        return Reinitialize(group, channels, consumers.choice(CONSUMERS), seed)

    def _rescale(self, node: Node) -> Rescale:
        parts = node.fields("kind", "scaling", "factors")
        scaling = self.scalings[parts["scaling"].whole(0, len(self.scalings) - 1)]
        factors = self._weights(parts["factors"], (scaling.size,))
        if not bool((factors > 0).all()):
            raise parts["factors"].refusal("a tensor of positive numbers")
        return Rescale(scaling, factors)

    def _set(self, node: Node) -> Set:
        parts = node.fields(
            "kind", "tensor", "blocks", "values", "what", "filter_size", "columns", "block_size", "held"
        )  # fmt: skip
        blocks = self._places(parts["blocks"], LARGEST, WHOLE)
        size, block_size = (parts[name].whole(1, LARGEST) for name in ("filter_size", "block_size"))
        if size % block_size:
            raise parts["block_size"].refusal("a divisor of filter_size")
        what = parts["what"].name()
        if not SAID.fullmatch(what):
            raise parts["what"].refusal("words")
        columns = parts["columns"].optional(_count)
        values = self._numbers(parts["values"])
        held = parts["held"].truth()
        edit = Set(parts["tensor"].name(), blocks, values, what, size, columns, block_size, held)
        if values.shape not in {(1,), (edit.count,)} or not bool(values.isfinite().all()):
            raise parts["values"].refusal(f"a tensor of {edit.count} finite numbers, or of one")
        if held and bool(values.any()):
            raise parts["held"].refusal("false where values are not zero")
        return edit

    def _blend(self, node: Node) -> Blend:
        parts = node.fields("kind", "tensor", "other", "share")
        return Blend(parts["tensor"].name(), self._numbers(parts["other"]), parts["share"].number(0, 1))

    def _group(self, node: Node) -> ChannelGroup:
        return self.groups[node.whole(0, len(self.groups) - 1)]

    def _tensor(self, node: Node) -> Tensor:
        if not isinstance(node.value, str) or node.value not in self._tensors:
            raise node.refusal("the name of a tensor in the file")
        return self._tensors[node.value]

    def _numbers(self, node: Node) -> Tensor:
        tensor = self._tensor(node)
        if tensor.dtype not in REAL:
            raise node.refusal("a tensor of 16-, 32- or 64-bit floating-point numbers")
        return tensor

    def _weights(self, node: Node, shape: tuple[int, ...]) -> Tensor:
        tensor = self._tensor(node)
        if tensor.dtype != torch.float64 or tensor.shape != shape or not bool(tensor.isfinite().all()):
            raise node.refusal(f"a tensor of finite float64 numbers with the shape {shape}")
        return tensor

    def _indices(
        self, node: Node, axes: int, stop: int, low: int = 0, kinds: tuple[torch.dtype, ...] = WHOLE[:1]
    ) -> Tensor:
        """Return a tensor of whole numbers from `low` up to, and without, `stop`."""
        tensor = self._tensor(node)
        if tensor.dtype not in kinds or tensor.dim() != axes:
            raise node.refusal(f"an int64 tensor of {axes} axes")
        # As Python's numbers: the limit may be beyond the tensor's own type.
        if tensor.numel() and not low <= int(tensor.min()) <= int(tensor.max()) < stop:
            raise node.refusal(f"a tensor of positions from {low} to {stop - 1}")
        return tensor

    def _places(self, node: Node, stop: int, kinds: tuple[torch.dtype, ...] = WHOLE[:1]) -> Tensor:
        """Return different positions below `stop`."""
        tensor = self._indices(node, 1, stop, kinds=kinds)
        if tensor.unique().numel() != len(tensor):
            raise node.refusal("a tensor of positions, each of them once")
        return tensor


def _kind(node: Node) -> type[InPlace]:
    if not isinstance(node.value, dict) or "kind" not in node.value:
        raise node.refusal("an edit with a kind")
    return Node(node.value["kind"], f"{node.place}.kind").choice(KINDS)


def _count(node: Node) -> int:
    return node.whole(1, LARGEST)


def _rows(node: Node) -> slice:
    numbers = [entry.whole(0, LARGEST) for entry in node.entries()]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise node.refusal("the first row and the end of a range")
    return slice(*numbers)


def _writer(node: Node) -> Writer:
    parts = node.fields("weight", "bias", "norm")
    return Writer(parts["weight"].name(), parts["bias"].optional(Node.name), parts["norm"].optional(_norm))


def _norm(node: Node) -> Norm:
    parts = node.fields(*(field.name for field in dataclasses.fields(Norm)))
    return Norm(
        weight=parts["weight"].optional(Node.name),
        bias=parts["bias"].optional(Node.name),
        running_mean=parts["running_mean"].name(),
        running_var=parts["running_var"].name(),
        eps=parts["eps"].number(0, LARGEST_EPS),
    )


def _has_places(group: ChannelGroup, writer: Writer) -> bool:
    """Return whether the vectors that are folded with a weight are the group's, at the places of the weight's rows."""
    assert writer.norm is not None
    norm = writer.norm
    rows = {member.tensor: member.positions for member in group.members if member.dim == 0 and member.rows is None}
    keys = (norm.weight, norm.bias, norm.running_mean, norm.running_var, writer.bias)
    expected = rows.get(writer.weight)
    if expected is None:
        return False
    return all(key is None or (key in rows and torch.equal(rows[key], expected)) for key in keys)


def _places(edit: InPlace) -> int:
    """Return how many positions an edit touches."""
    if isinstance(edit, Rescale):
        return sum(part.scale.numel() for part in edit.scaling.parts)
    if isinstance(edit, Set):
        return edit.count
    if isinstance(edit, Blend):
        return edit.other.numel()
    return sum(member.positions.numel() for member in edit.group.members)
