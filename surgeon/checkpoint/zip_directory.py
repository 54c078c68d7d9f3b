"""What an archive says that it holds, held against the file, before anything unpacks it.

PyTorch writes every record as it is, so that an archive unpacks to no more than itself.
"""

import struct
from dataclasses import dataclass
from mmap import mmap

END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAGIC_END, MAGIC_END_64, MAGIC_LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
MAGIC_ENTRY, MAGIC_LOCAL, MAGIC_DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
DESCRIPTORS = (16, 24)
"""Bytes of what may follow a record: its sizes once more, of 32 or 64 bits."""

STORED = 0
LARGE = 2**32 - 1
"""In the place of a number that stands among the extras, in 64 bits."""

EXTRA_64 = 1
MOST_RECORDS = 2**16


class ArchiveError(ValueError):
    """An archive that PyTorch has not written; the message goes on from the file's name."""


@dataclass(frozen=True)
class Record:
    """A record of an archive.

    Attributes:
        name: with its folders.
        header: where it begins in the file.
        start: where its bytes begin there.
        size: how many they are there.
        plain: it is neither compressed nor encrypted.
    """

    name: bytes
    header: int
    start: int
    size: int
    plain: bool


def records(content: mmap) -> list[Record]:
    """Return the records of an archive of `torch.save`.

    Args:
        content: the whole file.

    Raises:
        ArchiveError: the directory is damaged, ambiguous, too long, or says that a record is beyond the file or a part
            of another one, or leaves out bytes between them.
    """
    try:
        return _records(content)
    except struct.error as error:
        raise ArchiveError("is truncated or damaged") from error


def _records(content: mmap) -> list[Record]:
    count, place, end = _directory(content)
    if count > MOST_RECORDS:
        raise ArchiveError(f"has {count} records, more than {MOST_RECORDS}")
    found: dict[bytes, Record] = {}
    start = place
    for _ in range(count):
        record, place = _entry(content, place, start)
        # Case is nothing to the reader of PyTorch.
        if found.setdefault(record.name.lower(), record) is not record:
            raise ArchiveError("has two records of one name")
    if place != end:
        raise ArchiveError("has a directory that is not what it is said to be")
    last = 0
    for record in sorted(found.values(), key=lambda one: one.header):
        _check_gap(content, last, record.header)
        last = record.start + record.size
    _check_gap(content, last, start)
    return list(found.values())


def _check_gap(content: mmap, end: int, begin: int) -> None:
    """Check that between a record and what comes next is nothing else: where its bytes begin is said only once."""
    if begin < end:
        raise ArchiveError("has records that overlap")
    if begin > end and not (begin - end in DESCRIPTORS and content[end : end + 4] == MAGIC_DESCRIPTOR):
        raise ArchiveError("has bytes between its records")


def _directory(content: mmap) -> tuple[int, int, int]:
    """The number of records, and where the directory starts and ends."""
    place = len(content) - END.size
    magic, disk, first, here, count, size, start, comment = END.unpack_from(content, max(place, 0))
    # Without a comment there is one place only where readers look for the end.
    if magic != MAGIC_END or comment:
        raise ArchiveError("is truncated or damaged: it does not end as an archive")
    if place >= LOCATOR_64.size:
        magic, _, end, _ = LOCATOR_64.unpack_from(content, place - LOCATOR_64.size)
        if magic == MAGIC_LOCATOR_64:
            place -= LOCATOR_64.size + END_64.size
            magic, _, _, _, disk, first, here, count, size, start = END_64.unpack_from(content, max(place, 0))
            if magic != MAGIC_END_64 or end != place:
                raise ArchiveError("is truncated or damaged")
    if disk or first or here != count or start + size != place:
        raise ArchiveError("has a directory that is not where it is said to be")
    return count, start, place


def _entry(content: mmap, place: int, directory: int) -> tuple[Record, int]:
    """A record, and where the next entry is."""
    fields = ENTRY.unpack_from(content, place)
    magic, flags, method, packed, size = fields[0], fields[3], fields[4], fields[8], fields[9]
    name_size, extra_size, comment_size, start = fields[10], fields[11], fields[12], fields[16]
    if magic != MAGIC_ENTRY:
        raise ArchiveError("is truncated or damaged")
    end = place + ENTRY.size + name_size + extra_size + comment_size
    if end > len(content):
        raise ArchiveError("is truncated or damaged")
    name = content[place + ENTRY.size : place + ENTRY.size + name_size]
    extra = content[place + ENTRY.size + name_size : end - comment_size]
    size, packed, start = _large(extra, [size, packed, start])
    if start + LOCAL.size > directory:
        raise ArchiveError("has a record beyond its end")
    local = LOCAL.unpack_from(content, start)
    if local[0] != MAGIC_LOCAL:
        raise ArchiveError("has a record that is not where it is said to be")
    begin = start + LOCAL.size + local[9] + local[10]
    if begin + packed > directory:
        raise ArchiveError("has a record beyond its end")
    return Record(name, start, begin, packed, method == STORED and not flags & 1 and packed == size), end


def _large(extra: bytes, numbers: list[int]) -> list[int]:
    """The numbers, with those that do not fit in 32 bits from the extras."""
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        place += 4
        if kind == EXTRA_64:
            values = iter(struct.unpack_from(f"<{size // 8}Q", extra, place))
            return [next(values, number) if number == LARGE else number for number in numbers]
        place += size
    return numbers
