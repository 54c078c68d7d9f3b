"""A look through a pickle before it is loaded: what would take long, much memory, or the process along is refused.

PyTorch's restricted unpickler runs no code of a file's choosing. It does not bound what a file makes it do: a deep
tuple as a key ends the process, numbers of one hash take hours, and a few bytes ask for any amount of memory.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap

from surgeon.checkpoint import pickle_calls
from surgeon.checkpoint.pickle_calls import (
    FLAT,
    LONGEST_NAME,
    OTHER,
    Budget,
    DamagedPickleError,
    Kind,
    PickleError,
    Storage,
    Value,
)

MOST_MARKS = 1000
LONG_BYTES, LONGEST_NUMBER, MOST_LONG = 8, 64, 1000
"""Bytes of whole numbers of which there are no more than a few with one hash, of any, and how many may be longer."""

MARK, STOP, GLOBAL, LONG1, TEXT, SHORT_BYTES = ord("("), ord("."), ord("c"), 0x8A, ord("X"), ord("U")
FLATS = {
    ord("N"): 0, 0x88: 0, 0x89: 0, ord("G"): 8,
}  # fmt: skip
"""Bytes behind a step that pushes a value without parts."""

NUMBERS = {ord("K"): struct.Struct("<B"), ord("M"): struct.Struct("<H"), ord("J"): struct.Struct("<i")}
SMALL = tuple(Value(Kind.FLAT, hashed=True, number=number) for number in range(2**8))
"""The most frequent numbers, which are not made anew each time."""

GETS = {ord("h"): struct.Struct("<B"), ord("j"): struct.Struct("<I")}
PUTS = {ord("q"): struct.Struct("<B"), ord("r"): struct.Struct("<I")}
TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
EMPTY_LIST, EMPTY_MAPPING, EMPTY_SET = ord("]"), ord("}"), 0x8F
TUPLE, APPEND, APPENDS, SETITEM, SETITEMS = ord("t"), ord("a"), ord("e"), ord("s"), ord("u")
REDUCE, NEWOBJ, BUILD, PERSISTENT, PROTOCOL = ord("R"), 0x81, ord("b"), ord("Q"), 0x80
LONGEST_LINE = 1000
PROTOCOL_OF_TORCH = 2


@dataclass(frozen=True)
class Seen:
    """What a look through a pickle has shown.

    Attributes:
        end: where it ends.
        value: what is known of what it holds.
        storages: those that it asks for, by key.
    """

    end: int
    value: Value
    storages: Mapping[str, Storage]


def check_pickle(content: bytes | mmap | memoryview, start: int = 0, budget: Budget | None = None) -> Seen:
    """Look through a pickle.

    Args:
        content: bytes that hold it.
        start: where it begins.
        budget: what it may cost, together with others of its file; without it, what one of the size of `content` may.

    Raises:
        PickleError: it is damaged, has steps that PyTorch's restricted unpickler does not know, takes more of them than
            its size warrants, or does something that no state dict needs.
    """
    try:
        return _Look(content, start, budget or Budget(len(content))).seen()
    except (IndexError, KeyError, UnicodeDecodeError, struct.error) as error:
        raise DamagedPickleError("it is truncated or damaged") from error


class _Look:
    """Goes through the steps with what is known of the values in place of the values."""

    def __init__(self, content: bytes | mmap | memoryview, start: int, budget: Budget) -> None:
        self._content, self._place, self._budget = content, start, budget
        self._stack: list[Value] = []
        self._below: list[list[Value]] = []
        self._memo: dict[int, Value] = {}
        self._storages: dict[str, Storage] = {}
        self._long, self._of = 0, PROTOCOL_OF_TORCH
        self._steps: dict[int, Callable[[], None]] = {
            MARK: self._mark, GLOBAL: self._global, LONG1: self._number, TEXT: self._text, SHORT_BYTES: self._bytes,
            EMPTY_LIST: lambda: self._stack.append(Value(Kind.LIST, 0)),
            EMPTY_MAPPING: lambda: self._stack.append(Value(Kind.MAPPING, 0, names=set())),
            EMPTY_SET: lambda: self._stack.append(OTHER),
            TUPLE: self._tuple,
            APPEND: lambda: self._extend([self._stack.pop()]), APPENDS: lambda: self._extend(self._to_mark()),
            SETITEM: self._set_one, SETITEMS: lambda: self._set(self._to_mark()),
            REDUCE: self._call, NEWOBJ: self._call, BUILD: self._build, PERSISTENT: self._storage,
            PROTOCOL: self._protocol,
        }  # fmt: skip

    def seen(self) -> Seen:
        while True:
            self._budget.spend(1)
            step = self._content[self._place]
            self._place += 1
            if step in FLATS:
                self._place += FLATS[step]
                self._stack.append(FLAT)
            elif step in NUMBERS:
                self._stack.append(_flat(self._read(NUMBERS[step])))
            elif step in PUTS:
                self._memo[self._read(PUTS[step])] = self._stack[-1]
            elif step in GETS:
                self._stack.append(self._memo[self._read(GETS[step])])
            elif step in TUPLES:
                parts = [self._stack.pop() for _ in range(TUPLES[step])]
                self._stack.append(pickle_calls.tuple_of(parts[::-1]))
            elif step == STOP:
                if self._place > len(self._content):
                    raise DamagedPickleError("it is truncated or damaged")
                return Seen(self._place, self._stack.pop(), self._storages)
            elif step in self._steps:
                self._steps[step]()
            else:
                later = f"it is of protocol {self._of}, and torch.save writes {PROTOCOL_OF_TORCH}"
                unknown = f"it has the step {step:#04x}, which a state dict needs not"
                raise PickleError(later if self._of > PROTOCOL_OF_TORCH else unknown)

    def _read(self, layout: struct.Struct) -> int:
        (number,) = layout.unpack_from(self._content, self._place)
        self._place += layout.size
        return int(number)

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []
        if len(self._below) > MOST_MARKS:
            raise PickleError(f"it is nested deeper than {MOST_MARKS}")

    def _to_mark(self) -> list[Value]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        # What is pushed goes onto the stack that the mark had put away.
        made = pickle_calls.tuple_of(self._to_mark())
        self._stack.append(made)

    def _global(self) -> None:
        ends = []
        for _ in range(2):
            line = bytes(self._content[self._place : self._place + LONGEST_LINE])
            self._place += line.index(b"\n") + 1 if b"\n" in line else len(self._content)
            ends.append(line.partition(b"\n")[0].decode(errors="replace"))
        if ends[0] == "__builtin__":
            ends[0] = "builtins"
        self._stack.append(Value(Kind.GLOBAL, hashed=True, name=".".join(ends)))

    def _number(self) -> None:
        size = self._content[self._place]
        self._place += 1 + size
        self._long += size > LONG_BYTES
        if size > LONGEST_NUMBER or self._long > MOST_LONG:
            raise PickleError("it has numbers that are too long")
        digits = bytes(self._content[self._place - size : self._place])
        self._stack.append(_flat(int.from_bytes(digits, "little", signed=True)) if size <= LONG_BYTES else OTHER)

    def _text(self) -> None:
        self._words(self._read(GETS[ord("j")]))

    def _bytes(self) -> None:
        size = self._content[self._place]
        self._place += 1
        self._words(size)

    def _words(self, size: int) -> None:
        name = bytes(self._content[self._place : self._place + size]) if size <= LONGEST_NAME else b""
        self._place += size
        # As the unpickler does it: two texts that differ are not to look the same.
        self._stack.append(Value(Kind.TEXT, size, hashed=True, name=name.decode(errors="surrogatepass")))

    def _protocol(self) -> None:
        self._of = self._content[self._place]
        self._place += 1

    def _extend(self, items: list[Value]) -> None:
        target = self._stack[-1]
        if target.kind is not Kind.LIST:
            raise DamagedPickleError("it appends to what is no list")
        if isinstance(target.parts, list):
            target.parts.extend(items)
        else:
            target.parts = items
        target.size += len(items)

    def _set_one(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set(self, items: list[Value]) -> None:
        """Keys and values in turn."""
        target = self._stack[-1]
        if target.kind is not Kind.MAPPING:
            raise DamagedPickleError("it sets entries of what is no mapping")
        target.size += self._budget.hash(items[::2])
        target.names |= pickle_calls.names_of(items[::2])
        target.tensors = target.tensors or any(map(pickle_calls.holds_tensors, items[1::2]))

    def _call(self) -> None:
        arguments = self._stack.pop()
        self._stack[-1] = pickle_calls.call(self._stack[-1], arguments, self._budget)

    def _build(self) -> None:
        state = self._stack.pop()
        pickle_calls.build(self._stack[-1], state, self._budget)

    def _storage(self) -> None:
        storage = pickle_calls.storage_of(self._stack.pop())
        if storage is None:
            raise PickleError("it asks for something from outside that is no storage")
        known = self._storages.setdefault(storage.key, storage)
        # Of what is empty, the type is nothing to anybody.
        if known != storage and (known.nbytes or storage.nbytes):
            raise PickleError("it has two storages under one key")
        self._stack.append(Value(Kind.STORAGE))


def _flat(number: int) -> Value:
    small = 0 <= number < len(SMALL)
    return SMALL[number] if small else Value(Kind.FLAT, hashed=True, number=number)
