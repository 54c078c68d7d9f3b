"""Which positive factors can be moved from the tensors that write a channel into those that read it.

A channel group is about places: a depthwise kernel or a BatchNorm keeps a channel's place, so both sides of it are one
group. A factor is different: BatchNorm undoes it and a depthwise kernel can absorb it, so it lives between them only.
The same walk over the same operations answers this second question, with BatchNorms and depthwise kernels reading and
writing by elements of their own. What remains united carries one factor; where anything on the way is not positively
homogeneous, or not one of the weights that can take the factor up, there is none.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import fx

from surgeon.coupling.binding import Binding
from surgeon.coupling.context import Context, Way, module_path, op_name
from surgeon.coupling.graph import Part, Scaling
from surgeon.coupling.interpret import walk
from surgeon.coupling.ledger import Elements, Ledger
from surgeon.coupling.solve import channels

Recorded = tuple[fx.Graph, Mapping[fx.Node, Binding]]
Takers = Mapping[tuple[str, int], Collection[Way]]

UNREAD = "Nothing that reads them takes a factor up."


def find_scaling(graphs: Sequence[Recorded], unsafe: Mapping[str, str]) -> Scaling:
    """Return the factors that can be moved, and the tensors that take them up.

    Args:
        graphs: the network's operations, in evaluation and maybe in training mode.
        unsafe: tensors that take no factor up, each with the reason as a sentence.
    """
    ledger = Ledger()
    contexts = [walk(graph, bindings, ledger, scaling=True) for graph, bindings in graphs]
    takers, reads = _takers(contexts), _reads(ledger, contexts)
    bound = {**_otherwise_used(contexts), **unsafe}
    for key, elements in ledger.axes.items():
        ways = takers.get((key.tensor, key.dim), ())
        if key.tensor in bound:
            ledger.freeze(elements, bound[key.tensor])
        elif len(ways) != 1:
            ledger.freeze(elements, f"The factor would pass '{key.tensor}', which cannot take it up.")
        else:
            continue
        # A kernel that may not be multiplied may not be divided either.
        if key.tensor in reads and (key.dim == 0 or key.tensor in bound):
            ledger.freeze(reads[key.tensor], ledger.frozen[-1][1])
    return _collect(ledger, takers, reads)


def _takers(contexts: Collection[Context]) -> dict[tuple[str, int], set[Way]]:
    result: dict[tuple[str, int], set[Way]] = {}
    for context in contexts:
        for axis, ways in context.takers.items():
            result.setdefault(axis, set()).update(ways)
    return result


def _reads(ledger: Ledger, contexts: Sequence[Context]) -> dict[str, Elements]:
    """Return the elements by which each depthwise kernel reads; those of several graphs are the same channels."""
    result: dict[str, Elements] = {}
    for context in contexts:
        for tensor, elements in context.reads.items():
            if tensor in result:
                ledger.unite(elements, result[tensor])
            else:
                result[tensor] = elements
    return result


def _otherwise_used(contexts: Collection[Context]) -> dict[str, str]:
    """Return the parameters that some call reads in another way than to take factors up, with a sentence each.

    Such a call (a tied head, a gain, a slice) would see the parameter change.
    """
    result: dict[str, str] = {}
    for context in contexts:
        for node, key in context.parameters.items():
            for user in node.users:
                if context.absorbed[node, user] != _occurrences(node, user):
                    where = f"In {module_path(user)}" if module_path(user) else "In the network itself"
                    result.setdefault(key, f"{where}, {op_name(user)} uses '{key}', which can take no factor up there.")
    return result


def _occurrences(node: fx.Node, user: fx.Node) -> int:
    found: list[fx.Node] = []

    def look(argument: fx.Node) -> fx.Node:
        if argument is node:
            found.append(argument)
        return argument

    fx.map_arg((user.args, user.kwargs), look)
    return len(found)


def _collect(ledger: Ledger, takers: Takers, reads: Mapping[str, Elements]) -> Scaling:
    channel = channels(ledger)
    count = int(channel.max()) + 1 if channel.size else 0
    why, sentences = _why(ledger, channel, count)
    written, read = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for key, elements in ledger.axes.items():
        side = read if "reads" in takers.get((key.tensor, key.dim), ()) else written
        side[channel[elements]] = True
    for elements in reads.values():
        read[channel[elements]] = True
    free = (why < 0) & written & read
    number = np.where(free, np.cumsum(free) - 1, -1)
    parts = []
    reasons: dict[str, dict[str, int]] = {}
    for key, elements in ledger.axes.items():
        ways = takers.get((key.tensor, key.dim))
        if ways is None:
            continue
        rows, divided = None if key.rows is None else slice(*key.rows), "reads" in ways
        parts.append(_part(key.tensor, key.dim, rows, number[channel[elements]], divided))
        if not divided:
            bound = channel[elements].ravel()
            _count(reasons, key.tensor, [sentences[index] for index in why[bound[~free[bound]]].tolist()])
    for tensor, elements in reads.items():
        repeat = _rows(ledger, tensor) // elements.size
        parts.append(_part(tensor, 0, None, np.repeat(number[channel[elements]], repeat), True))
    return Scaling(int(free.sum()), tuple(part for part in parts if bool((part.scale >= 0).any())), reasons)


def _why(ledger: Ledger, channel: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    """Return for every channel the index of the first sentence that binds it (-1, the last, where none does)."""
    why = np.full(count, -1, dtype=np.int64)
    sentences: list[str] = []
    for elements, sentence in (*ledger.inhomogeneous, *ledger.frozen):
        touched = channel[elements]
        why[touched[why[touched] < 0]] = len(sentences)
        sentences.append(sentence)
    return why, [*sentences, UNREAD]


def _count(reasons: dict[str, dict[str, int]], tensor: str, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        counts = reasons.setdefault(tensor, {})
        counts[sentence] = counts.get(sentence, 0) + 1


def _rows(ledger: Ledger, tensor: str) -> int:
    """Return the number of rows of a depthwise kernel's weight."""
    return next(elements.size for key, elements in ledger.axes.items() if (key.tensor, key.dim) == (tensor, 0))


def _part(tensor: str, dim: int, rows: slice | None, scale: Elements, divided: bool) -> Part:
    return Part(tensor, dim, rows, torch.from_numpy(scale.ravel().copy()), divided)
