"""From layer patterns to the modules whose channels are edited."""

import difflib
import fnmatch
import itertools
from collections.abc import Sequence

from surgeon.coupling.graph import CouplingGraph
from surgeon.errors import LayerError

HINTS = 5
"""Modules that an error names."""

NEAR = 0.6
"""Least likeness of a name that is worth a hint."""


def find_targets(graph: CouplingGraph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that the patterns name, in the order of the patterns and of execution.

    A module that is named without wildcards is taken as it is; of those that a wildcard matches, the ones that carry no
    free channels, or only channels that an earlier match carries, are passed over.

    Args:
        graph: the network's coupling graph.
        patterns: module names and globs (`layer4`, `features.*`, `stages.3.*.conv2`); none means the deepest module
            whose output carries free channels over an image.

    Raises:
        LayerError: a pattern matches nothing, or only frozen channels.
    """
    if not patterns:
        deepest = graph.outputs.deepest()
        if deepest is None:
            raise LayerError(
                "No module of the network carries free channels over an image.", "Name modules with --layers."
            )
        return (deepest,)
    found: dict[str, None] = {}
    for pattern in patterns:
        found.update(dict.fromkeys(_matches(graph, pattern)))
    return tuple(found)


def _matches(graph: CouplingGraph, pattern: str) -> list[str]:
    names = graph.outputs.names
    if pattern in names:
        if not graph.at(pattern):
            raise _frozen(graph, pattern, [pattern])
        return [pattern]
    matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matched:
        raise _unmatched(graph, pattern)
    chosen = []
    seen: set[object] = set()
    for name in matched:
        groups = set(graph.at(name))
        if groups - seen:
            chosen.append(name)
            seen |= groups
    if not chosen:
        raise _frozen(graph, pattern, matched)
    return chosen


def _unmatched(graph: CouplingGraph, pattern: str) -> LayerError:
    return LayerError(f"The pattern '{pattern}' matches no module that computes anything.", _hint(graph, pattern))


def _hint(graph: CouplingGraph, pattern: str) -> str:
    """Name the free modules whose names are like the pattern, or else the network's stages."""
    near = _nearest(graph, pattern)
    if near:
        return f"The nearest modules are: {', '.join(near)}."
    return f"No name is like it; modules with free channels are: {', '.join(_stages(graph))}."


def _nearest(graph: CouplingGraph, pattern: str) -> list[str]:
    likeness = {name: _likeness(pattern, name) for name in graph.outputs.names}
    # Sorting is stable: among equals the network's order stays.
    ranked = sorted((name for name in likeness if max(likeness[name]) >= NEAR), key=likeness.__getitem__, reverse=True)
    return list(itertools.islice((name for name in ranked if graph.at(name)), HINTS))


def _likeness(pattern: str, name: str) -> tuple[float, float]:
    """How like a name is to a pattern: its best end of as many parts as the pattern has, and then the whole."""
    count = pattern.count(".") + 1
    whole = difflib.SequenceMatcher(None, pattern.lower(), name.lower()).ratio()
    end = difflib.SequenceMatcher(None, pattern.lower(), ".".join(name.split(".")[-count:]).lower()).ratio()
    return max(whole, end), whole


def _stages(graph: CouplingGraph) -> list[str]:
    """The outermost modules with free channels, with those inside the largest of them where that makes too few."""
    free = [name for name in graph.outputs.names if graph.at(name)]
    depth = min((name.count(".") for name in free), default=0)
    stages = _different(graph, [name for name in free if name.count(".") == depth], free)
    if 0 < len(stages) < HINTS:
        largest = max(stages, key=lambda stage: len(_inside(stage, free)))
        inside = [name for name in _inside(largest, free) if name.count(".") == depth + 1]
        own = [name for name in _different(graph, [*stages, *inside], free) if name in inside]
        stages += own[len(stages) - HINTS :]
    return stages[-HINTS:]


def _inside(stage: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{stage}.")]


def _different(graph: CouplingGraph, names: Sequence[str], free: Sequence[str]) -> list[str]:
    """Those of the names that carry channels of their own; of two with the same channels, the larger module."""
    seen: set[object] = set()
    chosen = set()
    for name in sorted(names, key=lambda name: -len(_inside(name, free))):
        groups = set(graph.at(name))
        if groups - seen:
            chosen.add(name)
            seen |= groups
    return [name for name in names if name in chosen]


def _frozen(graph: CouplingGraph, pattern: str, names: Sequence[str]) -> LayerError:
    reasons = dict.fromkeys(reason for name in names for reason in graph.outputs.reasons(name))
    why = " ".join(list(reasons)[:3]) or "Its output carries no channels of parameters along one axis."
    return LayerError(
        f"The channels of '{pattern}' are frozen: {why}", "Choose another layer; `surgeon inspect` lists the free ones."
    )


def find_scope(graph: CouplingGraph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that the patterns name, for methods that edit everything inside them, in execution order.

    Args:
        graph: the network's coupling graph.
        patterns: module names and globs; none means the whole network, for which the result is empty.

    Raises:
        LayerError: a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in graph.outputs.names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            raise _unmatched(graph, pattern)
        found.update(matched)
    return tuple(name for name in graph.outputs.names if name in found)
