"""From layer patterns to the modules whose channels are edited."""

import difflib
import fnmatch
from collections.abc import Sequence

from surgeon.coupling.graph import CouplingGraph
from surgeon.errors import LayerError


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
        near = difflib.get_close_matches(pattern, names, 5, 0.4) or list(names[:5])
        raise LayerError(
            f"The pattern '{pattern}' matches no module that computes anything.",
            f"The nearest modules are: {', '.join(near)}.",
        )
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


def _frozen(graph: CouplingGraph, pattern: str, names: Sequence[str]) -> LayerError:
    reasons = dict.fromkeys(reason for name in names for reason in graph.outputs.reasons(name))
    why = " ".join(list(reasons)[:3]) or "Its output carries no channels of parameters along one axis."
    return LayerError(
        f"The channels of '{pattern}' are frozen: {why}", "Choose another layer; `surgeon inspect` lists the free ones."
    )
