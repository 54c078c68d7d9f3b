"""A look through a pickle before it is loaded: what would take long, much memory, or the process along is refused.

PyTorch's restricted unpickler runs no code of a file's choosing. It does not bound what a file makes it do: a deep
tuple as a key ends the process, numbers of one hash take hours, and a few bytes ask for any amount of memory.
"""

import struct
from collections.abc import Callable
from mmap import mmap

MOST_STEPS = 2**20
MOST_MARKS = 1000
DEEPEST_TUPLE = 64
LONG_BYTES, LONGEST_NUMBER, MOST_LONG = 8, 64, 1000
"""Bytes of whole numbers of which there are no more than a few with one hash, of any, and how many may be longer."""

COSTLY = frozenset({
    b"bytearray", b"encode", b"_rebuild_device_tensor_from_numpy", b"_rebuild_device_tensor_from_cpu_tensor",
    b"_rebuild_wrapper_subclass",
})  # fmt: skip
"""Functions that take any time or memory, and that no state dict needs: what they are given is not known here."""

# What stands on the stack: a tuple by its depth, a value without parts, and everything else.
FLAT, OTHER = 0, -1

MARK, STOP, GLOBAL, LONG1, TEXT, SHORT_BYTES = ord("("), ord("."), ord("c"), 0x8A, ord("X"), ord("U")
PUSHES = {
    ord("N"): (0, FLAT), 0x88: (0, FLAT), 0x89: (0, FLAT), ord("K"): (1, FLAT), ord("M"): (2, FLAT),
    ord("J"): (4, FLAT), ord("G"): (8, FLAT), ord(")"): (0, 1), ord("]"): (0, OTHER), ord("}"): (0, OTHER),
    0x8F: (0, OTHER),
}  # fmt: skip
"""Bytes behind a step that pushes a value, and what that is."""

GETS = {ord("h"): struct.Struct("<B"), ord("j"): struct.Struct("<I")}
PUTS = {ord("q"): struct.Struct("<B"), ord("r"): struct.Struct("<I")}
TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
TUPLE, APPEND, APPENDS, SETITEM, SETITEMS = ord("t"), ord("a"), ord("e"), ord("s"), ord("u")
REDUCE, NEWOBJ, BUILD, PERSISTENT, PROTOCOL = ord("R"), 0x81, ord("b"), ord("Q"), 0x80
LONGEST_LINE = 1000


class PickleError(ValueError):
    """A pickle that is not loaded; the message goes on from `it`."""


def check_pickle(content: bytes | mmap | memoryview, start: int = 0) -> int:
    """Look through a pickle.

    Args:
        content: bytes that hold it.
        start: where it begins.

    Returns:
        Where it ends.

    Raises:
        PickleError: it is damaged, has steps that PyTorch's restricted unpickler does not know, takes more than a
            million of them, or does something that no state dict needs.
    """
    try:
        return _Look(content, start).end()
    except (IndexError, KeyError, struct.error) as error:
        raise PickleError("it is truncated or damaged") from error


class _Look:
    """Goes through the steps with the kinds of the values in place of the values."""

    def __init__(self, content: bytes | mmap | memoryview, start: int) -> None:
        self._content, self._place = content, start
        self._stack: list[int] = []
        self._below: list[list[int]] = []
        self._memo: dict[int, int] = {}
        self._long = 0
        self._steps: dict[int, Callable[[], None]] = {
            MARK: self._mark, GLOBAL: self._global, LONG1: self._number, TEXT: self._text, SHORT_BYTES: self._bytes,
            TUPLE: lambda: self._push(_tuple(self._to_mark())), APPEND: self._drop, APPENDS: self._discard,
            SETITEM: self._set_one, SETITEMS: self._set_many, REDUCE: self._call, NEWOBJ: self._call,
            BUILD: self._drop, PERSISTENT: self._replace, PROTOCOL: self._skip_one,
        }  # fmt: skip

    def end(self) -> int:
        for _ in range(MOST_STEPS):
            step = self._content[self._place]
            self._place += 1
            if step in PUSHES:
                size, kind = PUSHES[step]
                self._place += size
                self._stack.append(kind)
            elif step in PUTS:
                self._memo[self._read(PUTS[step])] = self._stack[-1]
            elif step in GETS:
                self._stack.append(self._memo[self._read(GETS[step])])
            elif step in TUPLES:
                count = TUPLES[step]
                parts = [self._stack.pop() for _ in range(count)]
                self._push(_tuple(parts))
            elif step == STOP:
                if self._place > len(self._content):
                    raise PickleError("it is truncated or damaged")
                self._stack.pop()
                return self._place
            elif step in self._steps:
                self._steps[step]()
            else:
                raise PickleError(f"it has the step {step:#04x}, which a state dict needs not")
        raise PickleError(f"it takes more than {MOST_STEPS} steps")

    def _push(self, kind: int) -> None:
        self._stack.append(kind)

    def _read(self, layout: struct.Struct) -> int:
        (number,) = layout.unpack_from(self._content, self._place)
        self._place += layout.size
        return int(number)

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []
        if len(self._below) > MOST_MARKS:
            raise PickleError(f"it is nested deeper than {MOST_MARKS}")

    def _to_mark(self) -> list[int]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _global(self) -> None:
        ends = []
        for _ in range(2):
            line = bytes(self._content[self._place : self._place + LONGEST_LINE])
            self._place += line.index(b"\n") + 1 if b"\n" in line else len(self._content)
            ends.append(line.partition(b"\n")[0])
        if ends[1] in COSTLY:
            raise PickleError(f"it calls {ends[1].decode()}, which a state dict needs not")
        self._push(FLAT)

    def _number(self) -> None:
        size = self._content[self._place]
        self._place += 1 + size
        self._long += size > LONG_BYTES
        if size > LONGEST_NUMBER or self._long > MOST_LONG:
            raise PickleError("it has numbers that are too long")
        self._push(FLAT if size <= LONG_BYTES else OTHER)

    def _text(self) -> None:
        size = self._read(GETS[ord("j")])
        self._place += size
        self._push(FLAT)

    def _bytes(self) -> None:
        self._place += 1 + self._content[self._place]
        self._push(FLAT)

    def _skip_one(self) -> None:
        self._place += 1

    def _drop(self) -> None:
        self._stack.pop()

    def _discard(self) -> None:
        self._to_mark()

    def _replace(self) -> None:
        self._stack[-1] = OTHER

    def _call(self) -> None:
        self._stack.pop()
        self._stack[-1] = OTHER

    def _set_one(self) -> None:
        self._stack.pop()
        _check_keys([self._stack.pop()])

    def _set_many(self) -> None:
        _check_keys(self._to_mark()[::2])


def _tuple(parts: list[int]) -> int:
    depth = 1 + max(parts, default=0) if max(parts, default=0) > 0 else 1
    if depth > DEEPEST_TUPLE:
        raise PickleError(f"it has tuples in each other, deeper than {DEEPEST_TUPLE}")
    return depth


def _check_keys(kinds: list[int]) -> None:
    """Refuse keys of which the hash takes any time, or goes down through any number of tuples."""
    if any(kind != FLAT for kind in kinds):
        raise PickleError("it has mappings whose keys are neither text nor usual numbers")
