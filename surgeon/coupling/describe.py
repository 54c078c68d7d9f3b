"""The coupling graph for readers: a tree of text, JSON, Graphviz and a picture."""

import colorsys
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Member
from surgeon.printable import printable

ROW, TITLE, WIDTH, MARGIN = 20, 28, 960, 16
READS, MODULE, WRITES = MARGIN + 12, 345, 655
GOLDEN_ANGLE = 137.508
FROZEN_SHOWN = 5
GROUP = re.compile(r"g\d+")
"""What groups are called in Graphviz's language."""


def shown_groups(graph: CouplingGraph, layers: Sequence[str] | None = None) -> tuple[ChannelGroup, ...]:
    """Return the groups that the outputs of the given modules carry, or all."""
    if layers is None:
        return graph.groups
    wanted = {group for layer in layers for group in graph.at(layer)}
    return tuple(group for group in graph.groups if group in wanted)


def tree(graph: CouplingGraph, layers: Sequence[str] | None = None) -> str:
    """Return stages, their groups and every group's members as indented text, and what is frozen and why.

    Args:
        graph: the network's coupling graph.
        layers: modules whose groups are shown; all by default, and then the frozen axes too.
    """
    lines: list[str] = []
    groups = shown_groups(graph, layers)
    for stage, members in _by_stage(groups):
        lines.append(f"{stage}: {len(members)} group{'s' * (len(members) != 1)}")
        for group in members:
            bent = "" if group.homogeneous else ", not homogeneous"
            lines.append(f"  {group.name}: {group.size} channels{bent}")
            lines += [f"    {_member(member)}" for member in group.members]
    if layers is None:
        lines += _frozen_lines(graph)
    return "\n".join(map(printable, lines))


def _frozen_lines(graph: CouplingGraph) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for axis in graph.frozen:
        by_reason.setdefault(axis.reason, []).append(f"{axis.tensor} axis {axis.dim}")
    lines = [f"frozen: {len(graph.frozen)} axes"] if by_reason else []
    for sentence, axes in by_reason.items():
        more = f" and {len(axes) - FROZEN_SHOWN} more" if len(axes) > FROZEN_SHOWN else ""
        lines.append(f"  {sentence}")
        lines.append(f"    {', '.join(axes[:FROZEN_SHOWN])}{more}")
    return lines


def _member(member: Member) -> str:
    rows = "" if member.rows is None else f" rows {member.rows.start}-{member.rows.stop - 1}"
    repeat = member.positions.shape[1]
    times = "" if repeat == 1 else f" ({repeat} places a channel)"
    return f"{member.role:<9} {member.tensor} axis {member.dim}{rows}{times}"


def _by_stage(groups: Sequence[ChannelGroup]) -> Iterator[tuple[str, list[ChannelGroup]]]:
    stages: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        stages.setdefault(stage_of(group.name), []).append(group)
    yield from stages.items()


def stage_of(name: str) -> str:
    """Return the stage that a module belongs to: `layer4` of `layer4.0.conv1`, `stages.3` of `stages.3.blocks.0`."""
    parts = name.split(".")
    numbered = len(parts) > 2 and parts[1].isdigit() and not parts[0][-1:].isdigit()
    return ".".join(parts[:2]) if numbered else parts[0]


def to_json(graph: CouplingGraph, layers: Sequence[str] | None = None) -> dict[str, Any]:
    """Return groups with all their members and positions, and the frozen axes, as JSON types."""
    return {
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "homogeneous": group.homogeneous,
                "members": [
                    {
                        "tensor": member.tensor,
                        "dim": member.dim,
                        "role": member.role,
                        "rows": None if member.rows is None else [member.rows.start, member.rows.stop],
                        "positions": member.positions.tolist(),
                    }
                    for member in group.members
                ],
            }
            for group in shown_groups(graph, layers)
        ],
        "frozen": [
            {"tensor": axis.tensor, "dim": axis.dim, "reason": axis.reason} for axis in (() if layers else graph.frozen)
        ],
    }


def to_dot(graph: CouplingGraph, layers: Sequence[str] | None = None) -> str:
    """Return the graph in Graphviz's language: modules write groups, groups are read by modules."""
    lines = ["digraph coupling {", "  rankdir=LR;", "  node [fontname=Helvetica];"]
    for number, group in enumerate(shown_groups(graph, layers)):
        label = _quoted(group.name)[:-1] + f'\\n{group.size} channels"'
        lines.append(f'  g{number} [shape=ellipse, style=filled, fillcolor="{_hex(number)}", label={label}];')
        for module, reads in _edges(group):
            # A module may be called what a group is; such a name in a name of its own.
            name = _quoted(f"{module} (module)" if GROUP.fullmatch(module) else module)
            lines.append(f"  {name} [shape=box];")
            lines.append(f"  g{number} -> {name};" if reads else f"  {name} -> g{number};")
    return "\n".join([*dict.fromkeys(lines), "}"])


def _quoted(text: str) -> str:
    # A backslash as well, or one at the end would go with the closing quotation mark.
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _edges(group: ChannelGroup) -> dict[tuple[str, bool], None]:
    """Return (module, whether it reads the group) once for each module that does."""
    return {(_module(member.tensor), member.role == "consumer"): None for member in group.members}


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0] or tensor


@dataclass(frozen=True)
class _Row:
    """One module of the picture with the numbers of the groups that it reads and writes."""

    module: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def to_svg(graph: CouplingGraph, layers: Sequence[str] | None = None, edited: Collection[ChannelGroup] = ()) -> str:
    """Return a picture: stages as boxes, their modules in execution order, and groups as numbered colours.

    A module stands between the groups that it reads (left) and writes (right); modules with the same colour on the
    same channels are edited together.

    Args:
        graph: the network's coupling graph.
        layers: modules whose groups are shown; all by default.
        edited: groups that get a frame and an ✎.
    """
    groups = shown_groups(graph, layers)
    stages: dict[str, list[_Row]] = {}
    for row in _rows(graph, groups):
        stages.setdefault(stage_of(row.module), []).append(row)
    body: list[str] = []
    top = MARGIN + 2 * TITLE
    for stage, rows in stages.items():
        height = TITLE + ROW * len(rows) + 8
        body.append(_rect(MARGIN, top, WIDTH - 2 * MARGIN, height, "#f6f6f4", 'stroke="#888" rx="6"'))
        body.append(_text(MARGIN + 10, top + 19, _short(stage, 90), 'font-weight="bold"'))
        for place, row in enumerate(rows):
            body += _row(row, top + TITLE + ROW * place, groups, edited)
        top += height + 10
    summary = f"{len(groups)} channel groups with {sum(group.size for group in groups)} channels"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + MARGIN}" '
        f'viewBox="0 0 {WIDTH} {top + MARGIN}" role="img" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f"<title>Coupling graph: {escape(summary)}</title>",
        _rect(0, 0, WIDTH, top + MARGIN, "#ffffff"),
        _text(MARGIN, MARGIN + 14, f"Coupling graph: {summary}", 'font-size="16" font-weight="bold"'),
        _text(MARGIN, MARGIN + 34, "reads the group on the left · module · writes the group on the right"),
    ]
    return "\n".join([*head, *body, "</svg>"])


def _rows(graph: CouplingGraph, groups: Sequence[ChannelGroup]) -> list[_Row]:
    reads: dict[str, dict[int, None]] = {}
    writes: dict[str, dict[int, None]] = {}
    for number, group in enumerate(groups):
        for module, is_reader in _edges(group):
            (reads if is_reader else writes).setdefault(module, {})[number] = None
    order = {name: place for place, name in enumerate(graph.outputs.names)}

    def place(module: str) -> int:
        # A bare parameter (a class token) belongs to no operation; it stands where its channels begin.
        first = next(iter([*reads.get(module, ()), *writes.get(module, ())]))
        return order.get(module, order.get(groups[first].name, len(order)))

    modules = sorted(reads.keys() | writes.keys(), key=lambda name: (place(name), name))
    return [_Row(name, tuple(reads.get(name, ())), tuple(writes.get(name, ()))) for name in modules]


def _row(row: _Row, top: int, groups: Sequence[ChannelGroup], edited: Collection[ChannelGroup]) -> list[str]:
    parts = [_text(MODULE, top + 14, _short(row.module, 46))]
    for numbers, left in ((row.reads, READS), (row.writes, WRITES)):
        if not numbers:
            continue
        first = numbers[0]
        more = "" if len(numbers) == 1 else f" +{len(numbers) - 1}"
        named = Counter(f"{groups[number].name} ({groups[number].size})" for number in numbers)
        tip = escape(printable(", ".join(name if times == 1 else f"{times} × {name}" for name, times in named.items())))
        marked = any(groups[number] in edited for number in numbers)
        frame, sign = ('stroke="#111" stroke-width="2.5"', "✎ ") if marked else ("", "")
        parts.append(f"<g><title>{tip}</title>{_rect(left, top + 3, 14, 14, _hex(first), frame)}")
        label = f"{sign}{first}: {_short(groups[first].name, 28)} ({groups[first].size}){more}"
        parts.append(_text(left + 20, top + 14, label))
        parts.append("</g>")
    return parts


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _rect(left: float, top: float, width: float, height: float, fill: str, rest: str = "") -> str:
    return f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="{fill}" {rest}/>'


def _text(left: float, top: float, text: str, rest: str = "") -> str:
    return f'<text x="{left}" y="{top}" fill="#111" {rest}>{escape(printable(text))}</text>'


def _hex(number: int) -> str:
    """Return a colour that differs from its neighbours': hues by the golden angle, in three shades."""
    hue = (number * GOLDEN_ANGLE) % 360 / 360
    red, green, blue = colorsys.hls_to_rgb(hue, (0.55, 0.7, 0.42)[number % 3], 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
