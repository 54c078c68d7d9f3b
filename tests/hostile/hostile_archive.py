"""Zip archives, field by field: whatever is not said otherwise is true."""

import functools
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from hostile_case import whole_state

ENTRY = b"PK\x01\x02"
FIELDS = {
    "magic": (0, "<L"), "flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<L"), "size": (24, "<L"),
    "name_size": (28, "<H"), "extra_size": (30, "<H"), "start": (42, "<L"),
}  # fmt: skip
"""Where a field of an entry of the directory is, and how it is written."""

NAME = 46
"""Where the name of such an entry begins."""


@dataclass(frozen=True)
class Archive:
    """An archive that is written as it says.

    Attributes:
        body: the records, each behind its header.
        entries: what the directory says of each.
    """

    body: bytes = b""
    entries: tuple[bytes, ...] = ()

    @property
    def names(self) -> list[bytes]:
        """Of the records."""
        return [one[NAME : NAME + _read(one, "name_size")] for one in self.entries]

    def where(self, name: bytes) -> int:
        """Return which of the entries is of a record."""
        return self.names.index(name)

    def told(self, at: int, field: str) -> int:
        """Return what an entry says."""
        return _read(self.entries[at], field)

    def saying(self, at: int, extra: bytes = b"", **fields: int) -> Self:
        """Return the archive with an entry that says something else.

        Args:
            at: which entry.
            extra: bytes behind its name.
            fields: what it says.
        """
        one = bytearray(self.entries[at] + extra)
        fields = {"extra_size": len(extra)} | fields if extra else fields
        for name, value in fields.items():
            place, layout = FIELDS[name]
            struct.pack_into(layout, one, place, value)
        return replace(self, entries=(*self.entries[:at], bytes(one), *self.entries[at + 1 :]))

    def before(self, at: int, place: int, layout: str, value: int) -> Self:
        """Return the archive with another value in the header before a record."""
        body = bytearray(self.body)
        struct.pack_into(layout, body, self.told(at, "start") + place, value)
        return replace(self, body=bytes(body))

    def without(self, *names: bytes) -> Self:
        """Return the archive without these records, and without a gap where they were."""
        starts = [self.told(at, "start") for at in range(len(self.entries))]
        ends = dict(pairwise([*sorted(starts), len(self.body)]))
        made, body = replace(self, entries=()), b""
        for one, name, start in zip(self.entries, self.names, starts, strict=True):
            if name not in names:
                made = replace(made, entries=(*made.entries, one))
                made = made.saying(len(made.entries) - 1, start=len(body))
                body += self.body[start : ends[start]]
        return replace(made, body=body)

    def adding(self, records: Mapping[bytes, bytes]) -> Self:
        """Return the archive with these records behind the others, even where one has the same name."""
        body, entries, place = [self.body], list(self.entries), len(self.body)
        for name, content in records.items():
            sums = struct.pack("<3L2H", zlib.crc32(content), len(content), len(content), len(name), 0)
            start = b"\x14" + bytes(9) + sums
            entries.append(ENTRY + b"\x14\0" + start + struct.pack("<3H2L", 0, 0, 0, 0, place) + name)
            body.append(b"PK\x03\x04" + start + name + content)
            place += len(body[-1])
        return replace(self, body=b"".join(body), entries=tuple(entries))

    def holding(self, records: Mapping[bytes, bytes]) -> Self:
        """Return the archive with these records in place of those of their names, or behind the others."""
        return self.without(*records).adding(records)

    def written(
        self, small: Mapping[str, int] | None = None, large: Mapping[str, int] | None = None, *, both: bool = True
    ) -> bytes:
        """Return the file, which ends as one of `torch.save` does.

        Args:
            small: lies of the end of 32 bits: `disk, first, here, count, size, start, comment`.
            large: lies of the end of 64 bits: the same without a comment, `magic`, and of what leads to it: `place`.
            both: whether there is an end of 64 bits. Readers take its word for everything where there is one.
        """
        directory, count = b"".join(self.entries), len(self.entries)
        place = len(self.body) + len(directory)
        told = {"disk": 0, "first": 0, "here": count, "count": count, "size": len(directory), "start": len(self.body)}
        told |= {"comment": 0, "magic": 0x06064B50, "place": place}
        few = {"here": min(count, 2**16 - 1), "count": min(count, 2**16 - 1)}
        ends, ends_64 = told | few | dict(small or {}), told | dict(large or {})
        order = ("disk", "first", "here", "count", "size", "start")
        end = b"PK\x05\x06" + struct.pack("<4H2LH", *(ends[name] for name in (*order, "comment")))
        end_64 = struct.pack("<LQ2H2L4Q", ends_64["magic"], 44, 0x031E, 45, *(ends_64[name] for name in order))
        end_64 += struct.pack("<LLQL", 0x07064B50, 0, ends_64["place"], 1)
        return self.body + directory + (end_64 if both else b"") + end


def _read(entry: bytes, field: str) -> int:
    place, layout = FIELDS[field]
    (value,) = struct.unpack_from(layout, entry, place)
    return int(value)


@functools.cache
def whole_archive() -> Archive:
    """Return what `torch.save` makes of the network that all whole files are for."""
    buffer = io.BytesIO()
    torch.save(whole_state(), buffer)
    content, entries = buffer.getvalue(), []
    place = start = content.index(ENTRY)
    while content.startswith(ENTRY, place):
        end = place + NAME + sum(struct.unpack_from("<3H", content, place + 28))
        entries.append(content[place:end])
        place = end
    made = Archive(content[:start], tuple(entries))
    assert made.written() == content
    return made


def archive_of(records: Mapping[str, bytes], root: str = "archive") -> Archive:
    """Return an archive with these records and no others, all in one folder."""
    return Archive().adding({f"{root}/{name}".encode(): content for name, content in records.items()})
