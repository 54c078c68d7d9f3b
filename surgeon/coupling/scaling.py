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
from surgeon.coupling.context import Context
from surgeon.coupling.graph import Part, Scaling
from surgeon.coupling.interpret import walk
from surgeon.coupling.ledger import Elements, Ledger
from surgeon.coupling.solve import channels

Recorded = tuple[fx.Graph, Mapping[fx.Node, Binding]]


def find_scaling(graphs: Sequence[Recorded], unsafe: Mapping[str, str]) -> Scaling:
    """Return the factors that can be moved, and the tensors that take them up.

    Args:
        graphs: the network's operations, in evaluation and maybe in training mode.
        unsafe: tensors that take no factor up, each with the reason as a sentence.
    """
    ledger = Ledger()
    contexts = [walk(graph, bindings, ledger, scaling=True) for graph, bindings in graphs]
    takers = _takers(contexts)
    for key, elements in ledger.axes.items():
        if key.tensor in unsafe:
            ledger.freeze(elements, unsafe[key.tensor])
        elif len(takers.get((key.tensor, key.dim), ())) != 1:
            ledger.freeze(elements, f"The factor would pass '{key.tensor}', which cannot take it up.")
    for context in contexts[1:]:
        for tensor, elements in context.reads.items():
            if tensor in contexts[0].reads:
                ledger.unite(elements, contexts[0].reads[tensor])
    return _collect(ledger, takers, contexts)


def _takers(contexts: Collection[Context]) -> dict[tuple[str, int], set[bool]]:
    result: dict[tuple[str, int], set[bool]] = {}
    for context in contexts:
        for axis, ways in context.takers.items():
            result.setdefault(axis, set()).update(ways)
    return result


def _collect(ledger: Ledger, takers: Mapping[tuple[str, int], set[bool]], contexts: Sequence[Context]) -> Scaling:
    channel = channels(ledger)
    count = int(channel.max()) + 1 if channel.size else 0
    why = np.full(count, -1, dtype=np.int64)
    sentences: list[str] = []
    for elements, sentence in (*ledger.inhomogeneous, *ledger.frozen):
        touched = channel[elements]
        why[touched[why[touched] < 0]] = len(sentences)
        sentences.append(sentence)
    reads = {tensor: elements for context in contexts for tensor, elements in context.reads.items()}
    written, read = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for key, elements in ledger.axes.items():
        side = read if True in takers.get((key.tensor, key.dim), ()) else written
        side[channel[elements]] = True
    for elements in reads.values():
        read[channel[elements]] = True
    free = (why < 0) & written & read
    number = np.where(free, np.cumsum(free) - 1, -1)
    parts = []
    reasons: dict[str, str] = {}
    for key, elements in ledger.axes.items():
        ways = takers.get((key.tensor, key.dim))
        if ways is None:
            continue
        rows, divided = None if key.rows is None else slice(*key.rows), True in ways
        parts.append(_part(key.tensor, key.dim, rows, number[channel[elements]], divided))
        bound = why[channel[elements]]
        if not divided and (bound >= 0).any():
            reasons[key.tensor] = sentences[bound[bound >= 0][0]]
    for tensor, elements in reads.items():
        repeat = _rows(ledger, tensor) // elements.size
        parts.append(_part(tensor, 0, None, np.repeat(number[channel[elements]], repeat), True))
    return Scaling(int(free.sum()), tuple(part for part in parts if bool((part.scale >= 0).any())), reasons)


def _rows(ledger: Ledger, tensor: str) -> int:
    """Return the number of rows of a depthwise kernel's weight."""
    return next(elements.size for key, elements in ledger.axes.items() if (key.tensor, key.dim) == (tensor, 0))


def _part(tensor: str, dim: int, rows: slice | None, scale: Elements, divided: bool) -> Part:
    return Part(tensor, dim, rows, torch.from_numpy(scale.ravel().copy()), divided)
