"""Turn the facts about elements into channel groups.

Elements that were united form a *channel*. Two channels are interchangeable when the facts cannot tell them apart: the
same numbers of elements in the same sets, with the same keys, related in the same way. The classes of interchangeable
channels are the groups. They are found by refining a partition fact by fact; every step costs one sort of what the
fact names, so the whole is linear in the graph up to a logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from surgeon.coupling.ledger import Fact, Ledger


@dataclass(frozen=True)
class Solution:
    """Which channel every element belongs to, and which channels may change places.

    Attributes:
        channel: int64 `[elements]`, the channel of every element.
        rank: int64 `[elements]`, the element's number within its channel, the same for corresponding elements of
            interchangeable channels.
        group: int64 `[channels]`, the class of interchangeable channels, or -1 where the channel is frozen or alone.
        reason: int64 `[channels]`, index into `reasons`, or -1 where the channel is free.
        reasons: sentences.
        homogeneous: bool `[channels]`.
    """

    channel: np.ndarray
    rank: np.ndarray
    group: np.ndarray
    reason: np.ndarray
    reasons: tuple[str, ...]
    homogeneous: np.ndarray


ALONE = "No other channel can change places with it."


def solve(ledger: Ledger) -> Solution:
    """Return the channels and groups that the facts of the ledger leave."""
    channel = channels(ledger)
    count = int(channel.max()) + 1 if channel.size else 0
    reasons: dict[str, int] = {}
    reason = np.full(count, -1, dtype=np.int64)
    for elements, sentence in ledger.frozen:
        touched = channel[elements]
        touched = touched[reason[touched] < 0]
        reason[touched] = reasons.setdefault(sentence, len(reasons))
    partition = _Partition(channel, reason < 0)
    for fact in ledger.facts:
        partition.refine(fact)
    group = np.where(reason < 0, partition.colour, -1)
    sizes = np.bincount(group[group >= 0], minlength=1)
    alone = (group >= 0) & (sizes[np.maximum(group, 0)] == 1)
    reason[alone] = reasons.setdefault(ALONE, len(reasons))
    group[alone] = -1
    homogeneous = np.ones(count, dtype=bool)
    for elements, _ in ledger.inhomogeneous:
        homogeneous[channel[elements]] = False
    return Solution(channel, partition.rank, group, reason, tuple(reasons), homogeneous)


def channels(ledger: Ledger) -> np.ndarray:
    """Return the connected components of the elements under `unite`."""
    pairs = [fact.columns for fact in ledger.facts if len(fact.columns) == 2]
    if not pairs:
        return np.arange(ledger.size, dtype=np.int64)
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    links = coo_array((np.ones(first.size, dtype=bool), (first, second)), shape=(ledger.size, ledger.size))
    return connected_components(links, directed=False)[1].astype(np.int64)


class _Partition:
    """Classes of channels that the facts so far cannot tell apart."""

    def __init__(self, channel: np.ndarray, free: np.ndarray) -> None:
        self.channel = channel
        self.free = free
        self.rank = np.full(channel.size, -1, dtype=np.int64)
        self.colour = np.zeros(free.size, dtype=np.int64)
        self._ranked = np.zeros(free.size, dtype=np.int64)
        self._sizes = [int(free.sum())]

    def refine(self, fact: Fact) -> None:
        """Split the classes by what one fact says."""
        channels = self.channel[fact.columns[0]]
        rows = self.free[channels]
        if not rows.any():
            return
        channels = channels[rows]
        columns = [column[rows] for column in fact.columns]
        for column in columns:
            self._number(column)
        code = _encode([self.rank[column] for column in columns], None if fact.keys is None else fact.keys[rows])
        self._split(*_per_channel(channels, code))

    def _number(self, elements: np.ndarray) -> None:
        """Give elements that appear for the first time the next numbers of their channels, in order of appearance."""
        new = elements[self.rank[elements] < 0]
        if not new.size:
            return
        channels = self.channel[new]
        if _ascending(channels):
            self.rank[new] = self._ranked[channels]
            self._ranked[channels] += 1
            return
        _, first = np.unique(new, return_index=True)
        new = new[np.sort(first)]
        channels = self.channel[new]
        order = np.argsort(channels, kind="stable")
        ordered = channels[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        lengths = np.diff(np.r_[starts, ordered.size])
        within = np.arange(ordered.size) - np.repeat(starts, lengths)
        self.rank[new[order]] = self._ranked[ordered] + within
        self._ranked[ordered[starts]] += lengths

    def _split(self, channels: np.ndarray, signature: np.ndarray) -> None:
        """Refine the classes of `channels` (each once) by their signatures; the channels left out stay behind."""
        width = int(signature.max()) + 1
        values, inverse, counts = np.unique(
            self.colour[channels] * width + signature, return_inverse=True, return_counts=True
        )
        mapped = values // width
        for index, (colour, size) in enumerate(zip(mapped.tolist(), counts.tolist(), strict=True)):
            if size != self._sizes[colour]:
                self._sizes[colour] -= size
                mapped[index] = len(self._sizes)
                self._sizes.append(size)
        self.colour[channels] = mapped[inverse]


def _encode(columns: Sequence[np.ndarray], keys: np.ndarray | None) -> np.ndarray:
    """Return one number a row that is equal for equal rows."""
    code = np.zeros(columns[0].size, dtype=np.int64) if keys is None else keys.astype(np.int64)
    for column in columns:
        width = int(column.max()) + 1
        if int(code.max()) > (1 << 62) // width:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
        code = code * width + column
    return code


def _per_channel(channels: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every channel once, with a number that is equal for equal multisets of codes."""
    if _ascending(channels):
        return channels, _numbered(code)
    order = np.lexsort((code, channels))
    channels, code = channels[order], code[order]
    starts = np.flatnonzero(np.r_[True, channels[1:] != channels[:-1]])
    lengths = np.diff(np.r_[starts, channels.size])
    signature = np.empty(starts.size, dtype=np.int64)
    used = 0
    for length in np.unique(lengths).tolist():
        chosen = lengths == length
        if length == 1:
            numbers = _numbered(code[starts[chosen]])
        else:
            numbers = _numbered(code[starts[chosen][:, None] + np.arange(length)])
        signature[chosen] = used + numbers
        used += int(numbers.max()) + 1
    return channels[starts], signature


def _ascending(channels: np.ndarray) -> bool:
    """Return whether every channel stands here once, in order, as along most axes: there is nothing to sort."""
    return bool((channels[1:] > channels[:-1]).all())


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Return a number for every row (or entry) that is equal for equal ones, counted from 0."""
    if (rows == rows[:1]).all():
        return np.zeros(len(rows), dtype=np.int64)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
