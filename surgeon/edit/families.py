"""Which channel groups must have equal widths: those that the conv groups of a grouped convolution read, or write."""

from collections.abc import Iterable

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Member
from surgeon.edit.runs import Run, runs_of

Family = tuple[ChannelGroup, ...]
Slices = dict[tuple[int, int], list[tuple[Run, ChannelGroup]]]
"""By slice of rows, which groups lie there, in order."""


def families(graph: CouplingGraph, groups: Iterable[ChannelGroup]) -> list[Family]:
    """Return which groups must have equal widths.

    Args:
        graph: the network's coupling graph.
        groups: some of its groups, of each family all or none.

    Returns:
        Every group once; one that is bound to no other is a family of its own.
    """
    bound, _ = bound_groups(graph)
    family_of = {group: family for family in bound for group in family}
    result: dict[Family, None] = {}
    chosen = dict.fromkeys(groups)
    for group in chosen:
        result[tuple(one for one in family_of.get(group, (group,)) if one in chosen)] = None
    return list(result)


def bound_groups(graph: CouplingGraph) -> tuple[list[Family], dict[ChannelGroup, str]]:
    """Return the families of more than one group, and the groups that cannot be resized for unlike ones beside them.

    Args:
        graph: the network's coupling graph.

    Returns:
        The families, and by group of those others the reason, a sentence.
    """
    parent: dict[ChannelGroup, ChannelGroup] = {}

    def root(group: ChannelGroup) -> ChannelGroup:
        while (above := parent.setdefault(group, group)) is not group:
            group = above
        return group

    reasons: dict[ChannelGroup, str] = {}
    for tensor, side in _sides(graph):
        alike = {tuple((run.start, run.inner, group.size) for run, group in pairs) for pairs in side.values()}
        if len(alike) > 1:
            sentence = f"The conv groups of '{tensor}' have different channels, and must have equally many."
            reasons.update((group, sentence) for pairs in side.values() for _, group in pairs)
            continue
        for pairs in zip(*side.values(), strict=True):
            for _, group in pairs[1:]:
                parent[root(group)] = root(pairs[0][1])
    found: dict[ChannelGroup, list[ChannelGroup]] = {}
    for group in graph.groups:
        if group in parent:
            found.setdefault(root(group), []).append(group)
    return [tuple(members) for members in found.values() if len(members) > 1], reasons


def _sides(graph: CouplingGraph) -> Iterable[tuple[str, Slices]]:
    """Return for every grouped convolution's weight which groups lie in each conv group's columns, and in its rows."""
    conv_groups = {layer.writer.weight: layer.groups for layer in graph.layers if layer.writer is not None}
    by_tensor: dict[str, list[tuple[ChannelGroup, Member]]] = {}
    for group in graph.groups:
        for member in group.members:
            by_tensor.setdefault(member.tensor, []).append((group, member))
    for tensor, pairs in by_tensor.items():
        slices = [member.rows for _, member in pairs if member.rows is not None]
        if not slices:
            continue
        size = slices[0].stop - slices[0].start
        # Of a weight that is computed from this one, the layer is not known.
        count = max(conv_groups.get(tensor, 1), *(one.stop // size for one in slices))
        starts = [size * number for number in range(count)]
        columns: Slices = {(start, start + size): [] for start in starts}
        rows: Slices = {(start, start + size): [] for start in starts}
        for group, member in pairs:
            for run in runs_of(member) or ():
                if member.rows is not None:
                    columns[member.rows.start, member.rows.stop].append((run, group))
                elif member.dim == 0:
                    start = run.start - run.start % size
                    rows[start, start + size].append((Run(run.start % size, run.inner), group))
        for side in (columns, rows):
            yield tensor, {place: sorted(found, key=lambda pair: pair[0].start) for place, found in side.items()}
