"""Elements, and everything that the operations of a network say about them.

An *element* is one position of one parameter axis (or a copy of it that an operation makes). The rules only write down
facts about elements; `solve.py` turns the facts into channel groups:

- `unite`: two elements meet at the same position of a result, so they belong to the same channel;
- `separate`: elements stand in one set, with a key; a permutation must keep every element's set and key;
- `freeze`: an element must stay where it is, for a reason;
- `note_inhomogeneous`: scaling the element's channel does not scale what its consumers read;
- `note_output`: the element's channel is the network's output.
"""

from dataclasses import dataclass

import numpy as np

Elements = np.ndarray
"""An int64 array of element numbers, of any shape."""

LARGEST_COPY = 1 << 24
"""The most elements that one operation may copy; beyond it the axis is frozen, so that memory stays bounded."""


@dataclass(frozen=True)
class Fact:
    """Rows of elements that belong together, each with a key: what a permutation has to keep.

    `columns` are int64 arrays of one length; row i says that `columns[0][i]`, `columns[1][i]`, … belong to one channel.
    """

    columns: tuple[Elements, ...]
    keys: np.ndarray | None


@dataclass(frozen=True)
class AxisKey:
    """One parameter axis, or the part of it that the rows `rows` of axis 0 hold."""

    tensor: str
    dim: int
    rows: tuple[int, int] | None = None


class Ledger:
    """The facts about the elements of one network, in the order in which its operations state them."""

    def __init__(self) -> None:
        self.size = 0
        self.facts: list[Fact] = []
        self.frozen: list[tuple[Elements, str]] = []
        self.inhomogeneous: list[tuple[Elements, str]] = []
        self.outputs: list[Elements] = []
        self.axes: dict[AxisKey, Elements] = {}

    def fresh(self, *shape: int) -> Elements:
        """Return new elements, an int64 array of the given shape."""
        count = int(np.prod(shape))
        elements = np.arange(self.size, self.size + count, dtype=np.int64).reshape(shape)
        self.size += count
        return elements

    def axis(self, key: AxisKey, *shape: int) -> Elements:
        """Return the elements of a parameter axis, made when it is first asked for."""
        if key not in self.axes:
            self.axes[key] = self.fresh(*shape)
            self.facts.append(Fact((self.axes[key].ravel(),), None))
        return self.axes[key]

    def unite(self, first: Elements, second: Elements) -> None:
        """State that `first[i]` and `second[i]` belong to the same channel (arrays of one shape)."""
        self.facts.append(Fact((first.ravel(), second.ravel()), None))

    def separate(self, elements: Elements, keys: np.ndarray | None = None) -> None:
        """State that a permutation keeps this set of elements, and every element's key (broadcast to `elements`)."""
        spread = None if keys is None else np.broadcast_to(keys, elements.shape).ravel()
        self.facts.append(Fact((elements.ravel(),), spread))

    def freeze(self, elements: Elements, reason: str) -> None:
        """State that these elements keep their places, with the reason as a sentence."""
        self.frozen.append((elements.ravel(), reason))

    def note_inhomogeneous(self, elements: Elements, reason: str) -> None:
        """State that an operation on these elements' channels is not positively homogeneous, with it as a sentence."""
        self.inhomogeneous.append((elements.ravel(), reason))

    def note_output(self, elements: Elements) -> None:
        """State that the network's output shows these elements' channels."""
        self.outputs.append(elements.ravel())

    def copy(self, elements: Elements, *shape: int) -> Elements:
        """Return copies that move with the originals: `elements` broadcast to `shape`, keyed by the copied places."""
        source = np.broadcast_to(elements, shape)
        copies = self.fresh(*shape)
        copied = [1 if old == new else new for old, new in zip(elements.shape, shape, strict=True)]
        places = np.arange(int(np.prod(copied)), dtype=np.int64).reshape(copied)
        self.unite(copies, source)
        self.separate(copies, places)
        return copies

    def distinct(self, elements: Elements) -> Elements:
        """Return the elements with every repeated one replaced by a copy that moves with it.

        Where one tensor carries a channel twice (`cat([x, x])`), the two places hold different things as soon as
        something acts on one of them, so each gets an element of its own, keyed by its turn.
        """
        flat = elements.ravel()
        order = np.argsort(flat, kind="stable")
        sorted_elements = flat[order]
        first_of_run = np.r_[True, sorted_elements[1:] != sorted_elements[:-1]]
        if first_of_run.all():
            return elements
        run_start = np.maximum.accumulate(np.where(first_of_run, np.arange(flat.size), 0))
        turn = np.empty(flat.size, dtype=np.int64)
        turn[order] = np.arange(flat.size) - run_start
        repeated = turn > 0
        result = flat.copy()
        result[repeated] = self.fresh(int(repeated.sum()))
        self.unite(result[repeated], flat[repeated])
        self.separate(result, turn)
        return result.reshape(elements.shape)
