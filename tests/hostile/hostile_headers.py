"""Safetensors files with headers that lie, or cost more than they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_case import ARCH, Case, framed, laid_out, text, whole_file, whole_parts, whole_state, writes

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SECOND = ENTRY | {"data_offsets": [8, 16]}
DATA = bytes(8)
MILLION = 1_000_000
EARLY, NO_JSON, NAMES_NOTHING = "it ends before its header", "its header is not JSON", "its header names no tensors"
OUTSIDE, UNTAKEN, UNKNOWN = "lies outside the file", "does not take", "has the unknown type"


MANY = "more than 524288 values"
VALUES = frozenset({
    "a hundred thousand entries", "a million empty objects", "ten million axes", "a million axes of 1",
    "metadata of a million names",
})  # fmt: skip
"""Headers that are short enough, and hold too much."""

SAYS = {
    **dict.fromkeys(
        ["beyond the file", "far beyond the file", "negative start", "negative both", "backwards"], OUTSIDE),
    **dict.fromkeys(
        ["huge shape", "shape that overflows to nothing", "shape too small", "shape too large", "empty shape",
         "empty axis", "wrong dtype"], UNTAKEN),
    **dict.fromkeys(
        ["unknown dtype", "dtype of no text", "dtype of a list", "null dtype", "dtype in small letters",
         "dtype with control characters", "dtype of a million letters", "no dtype"], UNKNOWN),
}  # fmt: skip
"""What is said of an entry that is not malformed."""


def lengths() -> Iterator[Case]:
    """Yield headers whose length is not what it is said to be."""
    header = text({"w": ENTRY})
    for length in (0, 1, 2, 2**20, 10**8, 10**8 + 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        says = EARLY if length > 2 else NO_JSON
        yield Case("header length", str(length), writes(length.to_bytes(8, "little") + header + DATA), says=says)
    for change in (-40, -8, -1, 1, 8, 9):
        length, says = len(header) + change, EARLY if change > len(DATA) else NO_JSON
        content = length.to_bytes(8, "little") + header + DATA
        yield Case("header length", f"{change:+d}", writes(content), says=says)
    for size in range(9):
        yield Case("header length", f"{size} bytes in all", writes(b"\x02" + bytes(size)), says=EARLY)


def malformed() -> Iterator[Case]:
    """Yield headers in which one entry is impossible."""
    entries: dict[str, Any] = {
        "beyond the file": ENTRY | {"data_offsets": [0, 16]},
        "far beyond the file": ENTRY | {"shape": [2**40], "data_offsets": [0, 2**42]},
        "beyond 64 bits": ENTRY | {"shape": [2**70], "data_offsets": [0, 2**72]},
        "negative start": ENTRY | {"data_offsets": [-8, 0]},
        "negative both": ENTRY | {"data_offsets": [-16, -8]},
        "backwards": ENTRY | {"data_offsets": [8, 0]},
        "three offsets": ENTRY | {"data_offsets": [0, 8, 8]},
        "one offset": ENTRY | {"data_offsets": [8]},
        "no offsets": ENTRY | {"data_offsets": []},
        "offsets as numbers with a point": ENTRY | {"data_offsets": [0.0, 8.0]},
        "offsets as text": ENTRY | {"data_offsets": ["0", "8"]},
        "offsets as truth": ENTRY | {"data_offsets": [False, 8]},
        "offsets as object": ENTRY | {"data_offsets": {"0": 8}},
        "null offsets": ENTRY | {"data_offsets": None},
        "negative shape": ENTRY | {"shape": [-2]},
        "two negative axes": ENTRY | {"shape": [-1, -2]},
        "huge shape": ENTRY | {"shape": [2**62]},
        "shape that overflows to nothing": ENTRY | {"shape": [2**32, 2**32]},
        "shape that overflows to the truth": ENTRY | {"shape": [2**63 + 1, 2]},
        "number of 4,000 digits": ENTRY | {"shape": [10**4000]},
        "shape as text": ENTRY | {"shape": "2"},
        "shape as number": ENTRY | {"shape": 2},
        "shape as truth": ENTRY | {"shape": [True, 2]},
        "shape in shape": ENTRY | {"shape": [[2]]},
        "null shape": ENTRY | {"shape": None},
        "shape too small": ENTRY | {"shape": [1]},
        "shape too large": ENTRY | {"shape": [3]},
        "empty shape": ENTRY | {"shape": []},
        "empty axis": ENTRY | {"shape": [0, 2]},
        "wrong dtype": ENTRY | {"dtype": "F64"},
        "unknown dtype": ENTRY | {"dtype": "PICKLE"},
        "dtype of no text": ENTRY | {"dtype": 32},
        "dtype of a list": ENTRY | {"dtype": ["F32"]},
        "null dtype": ENTRY | {"dtype": None},
        "dtype in small letters": ENTRY | {"dtype": "f32"},
        "dtype with control characters": ENTRY | {"dtype": "\x1b[31mF32"},
        "dtype of a million letters": ENTRY | {"dtype": "F" * MILLION},
        "no dtype": {"shape": [2], "data_offsets": [0, 8]},
        "no shape": {"dtype": "F32", "data_offsets": [0, 8]},
        "no fields": {},
        "a number": 3,
        "a list": [ENTRY],
        "null": None,
    }  # fmt: skip
    for name, entry in entries.items():
        yield Case("header entry", name, writes(framed(text({"w": entry}), DATA)), says=SAYS.get(name, "is malformed"))
    for name in ("", "\x1b[2J", "w\n" * 50, "../../w", "w" * 100_000, "\u202e", "\ud800"):
        header = text({name: ENTRY | {"shape": [9]}})
        yield Case("header entry", f"name {name[:12]!a}", writes(framed(header, DATA)), says=UNTAKEN)
    # Of no use, and without harm.
    header, data = whole_parts()
    more = {name: entry | {"code": "import os"} for name, entry in header.items()}
    yield Case("header entry", "unknown field", writes(framed(text(more), data)), "read", whole=True)


def layouts() -> Iterator[Case]:
    """Yield headers whose entries do not lie one after the other."""
    layouts: dict[str, tuple[dict[str, Any], int]] = {
        "the same place twice": ({"w": ENTRY, "v": ENTRY}, 8),
        "overlap by half": ({"w": ENTRY, "v": ENTRY | {"data_offsets": [4, 12]}}, 12),
        "one inside another": ({"w": ENTRY | {"shape": [4], "data_offsets": [0, 16]}, "v": SECOND}, 16),
        "gap between": ({"w": ENTRY, "v": ENTRY | {"data_offsets": [16, 24]}}, 24),
        "gap before": ({"v": SECOND}, 16),
        "data after the last": ({"w": ENTRY}, 16),
        "a byte after the last": ({"w": ENTRY}, 9),
        "nothing in the gap": (
            {"w": ENTRY, "e": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]}, "v": SECOND}, 16),
    }  # fmt: skip
    for name, (header, size) in layouts.items():
        says = (
            "gap before it" if "gap " in name else "behind its last tensor" if "after" in name else "overlaps another"
        )
        yield Case("header layout", name, writes(framed(text(header), bytes(size))), says=says)


def repeated() -> Iterator[Case]:
    """Yield headers with a key twice, of which readers take different ones."""
    entry, other = text(ENTRY), text(ENTRY | {"dtype": "I32"})
    headers = {
        "tensor": b'{"w":' + entry + b',"w":' + other + b"}",
        "tensor, twice the same": b'{"w":' + entry + b',"w":' + entry + b"}",
        "tensor by an escape": b'{"w":' + entry + b',"\\u0077":' + other + b"}",
        "field": b'{"w":' + entry[:-1] + b',"dtype":"I32"}}',
        "metadata": b'{"__metadata__":{},"w":' + entry + b',"__metadata__":{"architecture":"resnet18"}}',
        "name in metadata": b'{"__metadata__":{"a":"1","a":"2"},"w":' + entry + b"}",
    }
    for name, header in headers.items():
        yield Case("header repeats", name, writes(framed(header, DATA)), says="twice")
    # The same over a whole network: nothing else is wrong with it.
    whole = laid_out(whole_state(), {"architecture": ARCH})
    length = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + length].rstrip()[:-1] + b',"__metadata__":{"architecture":"resnet18"}}'
    yield Case("header repeats", "whole network", writes(framed(header, whole[8 + length :])), says="twice")


def no_json() -> Iterator[Case]:
    """Yield headers that are no JSON object of tensors."""
    headers = {
        "empty object": b"{}", "list": b"[]", "number": b"1", "text": b'"w"', "null": b"null", "spaces": b" " * 100,
        "zeros": bytes(100), "not UTF-8": b"\xff\xfe{}", "broken UTF-8": b'{"\xc3\x28":' + text(ENTRY) + b"}",
        "UTF-16": '{"w":1}'.encode("utf-16"), "UTF-8 mark": b"\xef\xbb\xbf" + text({"w": ENTRY}),
        "NaN": b'{"w": NaN}', "infinity": b'{"w":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}',
        "number that overflows": b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}',
        "number of 5,000 digits": b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
        "unclosed": text({"w": ENTRY})[:-1], "trailing": text({"w": ENTRY}) + b"}", "two": text({"w": ENTRY}) * 2,
        "comment": b"/* */" + text({"w": ENTRY}), "single quotes": b"{'w': 1}", "pickle": b"\x80\x02}q\x00.",
        "only metadata": text({"__metadata__": {"a": "b"}}),
    }  # fmt: skip
    for name, header in headers.items():
        says = {
            "empty object": "holds no tensor", "only metadata": "holds no tensor", "list": NAMES_NOTHING,
            "number": NAMES_NOTHING, "text": NAMES_NOTHING, "null": NAMES_NOTHING,
            "number that overflows": "is malformed",
        }.get(name, NO_JSON)  # fmt: skip
        yield Case("header JSON", name, writes(framed(header, DATA)), says=says)


def metadata() -> Iterator[Case]:
    """Yield headers whose metadata is not text by name."""
    values: dict[str, Any] = {
        "number": 1, "list": [], "text": "architecture", "null": None, "truth": True, "list in it": {"a": []},
        "number in it": {"a": 1}, "null in it": {"a": None}, "object in it": {"a": {"b": "c"}},
    }  # fmt: skip
    for name, value in values.items():
        content = framed(text({"__metadata__": value, "w": ENTRY}), DATA)
        yield Case("metadata", name, writes(content), says="is not text by name")
    names = {
        "architecture": ("\x1b[2J" * 20, "has no network named"), "architecture_args": ("{" * 50, "nested deeper than"),
        # Whose names they are is nobody's business.
        "format": ("tf", ""),
    }  # fmt: skip
    for name, (value, says) in names.items():
        # Without --arch: the metadata decides.
        content, outcome = whole_file({"architecture": ARCH, name: value}), "refused" if says else "read"
        yield Case("metadata", name, writes(content), outcome, arch=None, says=says, whole=not says)


def costly() -> Iterator[Case]:
    """Yield headers that take far more time or memory than their size."""
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'

    def entries(count: int) -> bytes:
        thousand = ",".join(f'"@{number}":{empty}' for number in range(1000))
        return ("{" + ",".join(thousand.replace("@", f"{number}.") for number in range(count // 1000)) + "}").encode()

    def collide(count: int) -> bytes:
        return ("{" + ",".join(f'"w":{empty}' for _ in range(count)) + "}").encode()

    makers = {
        "a million entries": lambda: entries(MILLION),
        "a hundred thousand entries": lambda: entries(100_000),
        "one entry a million times": lambda: collide(MILLION),
        "a million empty objects": lambda: b'{"w":[' + b"{}," * MILLION + b"{}]}",
        "thirty million empty lists": lambda: b'{"w":[' + b"[]," * (30 * MILLION) + b"[]]}",
        "ten million axes": lambda: text({"w": ENTRY})[:-1] + b',"v":{"dtype":"F32","shape":['
        + b"0," * (10 * MILLION) + b'0],"data_offsets":[8,8]}}',
        "a million axes of 1": lambda: b'{"w":{"dtype":"F32","shape":[' + b"1," * MILLION
        + b'2],"data_offsets":[0,8]}}',
        "ten thousand axes of 4,000 digits": lambda: b'{"w":{"dtype":"F32","shape":['
        + (b"9" * 4000 + b",") * 10_000 + b'1],"data_offsets":[0,8]}}',
        "deep lists": lambda: b'{"w":' + b"[" * MILLION + b"]" * MILLION + b"}",
        "deep objects": lambda: b'{"w":' * MILLION + b"1" + b"}" * MILLION,
        "lists 900 deep": lambda: b'{"w":' + b"[" * 900 + b"]" * 900 + b"}",
        "unclosed lists": lambda: b"[" * (30 * MILLION + 1),
        "metadata of a million names": lambda: b'{"__metadata__":'
        + entries(MILLION).replace(empty.encode(), b'""') + b"}",
        "text of 90 million letters": lambda: b'{"' + b"w" * (90 * MILLION) + b'":1}',
        "escapes": lambda: b'{"w":"' + b"\\u0000" * (10 * MILLION) + b'"}',
        "wide letters": lambda: ('{"w":"' + "\U0001f600" + "w" * (80 * MILLION) + '"}').encode(),
        "90 million spaces": lambda: text({"w": 1}) + b" " * (90 * MILLION),
    }  # fmt: skip
    for name, make in makers.items():

        def write(path: Path, make: Any = make) -> None:
            path.write_bytes(framed(make(), DATA))

        short = ("deep", "lists 900", "unclosed")
        says = (
            "nested deeper than 8" if name.startswith(short) else MANY if name in VALUES else "more than the 33554432"
        )
        yield Case("costly header", name, write, says=says)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(2**40)

    yield Case("costly header", "a tebibyte of nothing", sparse, says=NO_JSON)

    def sparse_behind(path: Path) -> None:
        path.write_bytes(framed(text({"w": ENTRY}), DATA))
        with path.open("ab") as file:
            file.truncate(2**40)

    behind = "a tebibyte behind the last tensor"
    yield Case("costly header", behind, sparse_behind, says="bytes behind its last tensor")


def bounds() -> Iterator[Case]:
    """Yield headers just beyond what is read, which cost little."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    headers: dict[str, tuple[Any, str]] = {
        "axes": ({"w": ENTRY | {"shape": [2] + [1] * 64}}, "is malformed"),
        "tensors": ({f"{number}": empty for number in range(2**15 + 1)}, "names 32769 tensors, more than 32768"),
        "values": ({"w": [0] * 2**19}, MANY),
        # Only the library knows that this is no text.
        "letters": ({"\ud800": ENTRY}, "is no sound safetensors file"),
    }
    for name, (header, says) in headers.items():
        data = b"" if name == "tensors" else DATA
        yield Case("header bounds", name, writes(framed(text(header), data)), says=says)

    def long(path: Path) -> None:
        with path.open("wb") as file:
            file.write((2**25 + 1).to_bytes(8, "little"))
            file.truncate(8 + 2**25 + 1)

    yield Case("header bounds", "length", long, says="more than the 33554432")


def header_cases() -> Iterator[Case]:
    """Yield all of them."""
    for cases in (lengths, malformed, layouts, repeated, no_json, metadata, bounds, costly):
        yield from cases()
