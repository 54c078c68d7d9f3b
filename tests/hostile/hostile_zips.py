"""Archives that are no files of `torch.save`, or claim to be more than they are."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hostile_archive import Archive, archive_of, whole_archive
from hostile_case import Case, writes

EMPTY = b"\x80\x02}q\x00."
END = b"PK\x05\x06"
LARGE = 2**32 - 1
"""What says that a number stands among the extras, in 64 bits."""


def archive(
    pickled: bytes,
    others: Mapping[str, bytes] | None = None,
    *,
    method: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> bytes:
    """Return a file in the layout of `torch.save`, with further records."""
    buffer = io.BytesIO()
    records = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"} | dict(others or {})
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in records.items():
            file.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def _turned(name: str, content: bytes) -> bytes:
    """The record of a storage with the bytes of each number in the other order."""
    if not name.startswith("data/"):
        return content
    # Counters are single whole numbers of eight bytes; there is nothing else but float32.
    width = 8 if len(content) == 8 else 4
    return b"".join(content[at : at + width][::-1] for at in range(0, len(content), width))


def bombs() -> Iterator[Case]:
    """Yield archives with records that unpack to far more than the file."""

    def bomb(name: str, size: int, method: int) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
                if name != "version":
                    file.writestr("archive/version", b"3\n")
                with file.open(f"archive/{name}", "w", force_zip64=True) as record:
                    record.write(b"\x80\x02" + b"(" * 98)
                    for _ in range(size // 2**20):
                        record.write(b"N" * 2**20)
                if name != "data.pkl":
                    file.writestr("archive/data.pkl", EMPTY)

        return make

    makers = {
        f"{name}, deflated": bomb(name, 2**29, zipfile.ZIP_DEFLATED)
        for name in ("data.pkl", "version", "byteorder", ".data/serialization_id", "data/0")
    }
    makers["data.pkl, bzip2"] = bomb("data.pkl", 2**26, zipfile.ZIP_BZIP2)
    makers["data.pkl, small and deflated"] = bomb("data.pkl", 2**20, zipfile.ZIP_DEFLATED)
    makers["a storage, deflated"] = writes(archive(EMPTY, {"data/0": bytes(2**16)}, method=zipfile.ZIP_DEFLATED))
    for name, make in makers.items():
        yield Case("zip bomb", name, make, suffix=".pth", says="compressed or encrypted")
    program = bomb("constants.pkl", 2**29, zipfile.ZIP_DEFLATED)
    yield Case("zip bomb", "constants.pkl, deflated", program, suffix=".pth", says="TorchScript")
    stored = bomb("data.pkl", 200 * 2**20, zipfile.ZIP_STORED)
    yield Case("zip bomb", "data.pkl of 200 MiB, stored", stored, suffix=".pth", says="more steps")


def lies() -> Iterator[Case]:
    """Yield archives of a whole network whose directory is not true, and is believed where that does no harm."""
    whole = whole_archive()
    pickled, last = whole.where(b"archive/data.pkl"), whole.where(b"archive/.data/serialization_id")
    weight, twin = (at for at, _ in zip(_alike(whole), range(2), strict=False))
    content, size = whole.written(), whole.told(pickled, "size")
    end, directory = len(content) - 22, len(whole.body)
    beyond, packed, place = (
        "has a record beyond its end",
        "compressed or encrypted",
        "has a directory that is not where",
    )
    damaged, moved, no_end = " is truncated or damaged.", "a record that is not where", "does not end as an archive"
    large = {"size": LARGE, "packed": LARGE, "start": LARGE}
    entries = {
        "record larger than the file": (whole.saying(pickled, packed=2**31, size=2**31), beyond),
        "record of 4 GiB": (whole.saying(pickled, packed=LARGE, size=LARGE), beyond),
        "unpacks to more": (whole.saying(pickled, size=size * 1000), packed),
        "unpacks to less": (whole.saying(pickled, size=1), packed),
        "method of no kind": (whole.saying(pickled, method=99), packed),
        "deflated, by its word": (whole.saying(pickled, method=8), packed),
        "encrypted": (whole.saying(pickled, flags=1), packed),
        "record beyond the file": (whole.saying(pickled, start=2**31), beyond),
        "record at the directory": (whole.saying(pickled, start=directory), beyond),
        "record beside itself": (whole.saying(pickled, start=1), moved),
        "record without its mark": (whole.before(weight, 0, "<L", 0), moved),
        "record of another one's bytes": (whole.saying(twin, start=whole.told(weight, "start")), "overlap"),
        "record into the next one": (whole.saying(weight, packed=10**5, size=10**5), "overlap"),
        "record behind a long name": (whole.before(last, 26, "<H", 65535), beyond),
        "record behind long extras": (whole.before(weight, 28, "<H", 65535), "overlap"),
        "name beyond the directory": (whole.saying(last, name_size=65535), damaged),
        "extra beyond the directory": (whole.saying(last, extra_size=65535), damaged),
        "extra of the next entry": (whole.saying(pickled, extra_size=100), damaged),
        "entry without its mark": (whole.saying(pickled, magic=0), damaged),
        "a name in other letters": (whole.adding({b"archive/DATA.PKL": EMPTY}), "has two records of one name"),
        "in 64 bits": (whole.saying(pickled, _extra(whole, pickled), **large), ""),
        "in 64 bits, larger than the file": (
            whole.saying(pickled, _extra(whole, pickled, size=2**40, packed=2**40), **large), beyond),
        "in 64 bits, unpacks to more": (whole.saying(pickled, _extra(whole, pickled, size=2**40), **large), packed),
        "in 64 bits, record beyond the file": (
            whole.saying(pickled, _extra(whole, pickled, start=2**63), **large), beyond),
        "in 64 bits, cut short": (whole.saying(pickled, struct.pack("<HH", 1, 24), size=LARGE, packed=LARGE), damaged),
        "in 64 bits that are not there": (whole.saying(pickled, start=LARGE), beyond),
    }  # fmt: skip
    for name, (archive, says) in entries.items():
        yield _case("zip directory", name, archive.written(), says)
    ends = {
        "no entries": ({"here": 0, "count": 0}, "not what it is said to be"),
        "fewer entries": ({"here": 1, "count": 1}, "not what it is said to be"),
        "more entries": ({"here": 60000, "count": 60000}, damaged),
        "entries elsewhere": ({"here": 1}, place),
        "directory beyond the file": ({"size": 2**31, "start": 2**31}, place),
        "directory of nothing": ({"size": 0, "start": 0}, place),
        "directory before itself": ({"start": 0}, place),
        "second disk": ({"disk": 1}, place),
        "directory on a second disk": ({"first": 1}, place),
    }
    for name, (told, says) in ends.items():
        # Where there is an end of 64 bits, PyTorch does not look at these numbers of the other one either.
        yield _case("zip directory", name, whole.written(small=told), "")
        yield _case("zip directory", f"{name}, without 64 bits", whole.written(small=told, both=False), says)
        yield _case("zip directory", f"{name}, in 64 bits", whole.written(large=told), says)
    more = {
        "70,000 entries": (whole.written(large={"here": 70_000, "count": 70_000}), "has 70000 records, more than"),
        "no mark of 64 bits": (whole.written(large={"magic": 0}), damaged),
        "64 bits at the start": (whole.written(large={"place": 0}), damaged),
        "64 bits beyond the file": (whole.written(large={"place": 2**40}), damaged),
        "without 64 bits": (whole.written(both=False), ""),
        "comment beyond the file": (whole.written(small={"comment": 100}), no_end),
        "comment": (whole.written(small={"comment": 40}) + b"x" * 40, no_end),
        "two ends": (content + content[end:], place),
        "an end in the comment": (whole.written(small={"comment": 22}) + END + bytes(18), place),
        "something before": (b"PK\x03\x04" + content, damaged),
        "something after": (content + bytes(100), no_end),
        "only an end": (b"PK\x03\x04" + END + bytes(18), place),
    }
    for name, (lie, says) in more.items():
        yield _case("zip directory", name, lie, says)


def _case(kind: str, name: str, content: bytes, says: str) -> Case:
    """A file that is refused with these words, or, without any, is the whole network."""
    return Case(kind, name, writes(content), "refused" if says else "read", ".pth", says=says, whole=not says)


def _alike(archive: Archive) -> Iterator[int]:
    """Which entries are of storages as large as the first one with 96 bytes."""
    return (at for at, _ in enumerate(archive.entries) if archive.told(at, "size") == 96)


def _extra(archive: Archive, at: int, **lies: int) -> bytes:
    """What an entry says in 64 bits, behind something else that PyTorch writes there."""
    told = {name: archive.told(at, name) for name in ("size", "packed", "start")} | lies
    return struct.pack("<HHH", 0x4246, 2, 0) + struct.pack("<HH3Q", 1, 24, *told.values())


def contents() -> Iterator[Case]:
    """Yield sound archives of a whole network with records that no file of `torch.save` has, or that say too much."""
    whole = whole_archive()
    with zipfile.ZipFile(io.BytesIO(whole.written())) as file:
        held = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
    damaged = "truncated, damaged, or no checkpoint"
    others: dict[str, tuple[Mapping[str, bytes], str]] = {
        # What PyTorch does not ask for is never looked at.
        "climbing names": ({"../../../canary": b"x"}, ""), "absolute name": ({"/canary": b"x"}, ""),
        "name of 60,000 letters": ({"n" * 60_000: b""}, ""), "escape codes": ({"\x1b[2J": b""}, ""),
        "a null": ({"data\0": b""}, ""), "a null behind a name": ({"data.pkl\0": EMPTY}, ""),
        "version of text": ({"version": b"x" * 1000}, damaged),
        "version of 10**30": ({"version": b"1" + b"0" * 30}, damaged),
        "empty version": ({"version": b""}, damaged), "negative version": ({"version": b"-1"}, damaged),
        "byteorder of text": ({"byteorder": b"middle"}, damaged),
        "TorchScript": ({"constants.pkl": EMPTY}, "TorchScript"),
        "big endian": ({name: _turned(name, one) for name, one in held.items()} | {"byteorder": b"big"}, ""),
        "big endian, by its word": ({"byteorder": b"big"}, "NaN"),
        "costly pickle beside": ({"other.PKL": b"\x80\x02" + b"(" * 1001 + b"."}, "nested deeper than 1000"),
    }  # fmt: skip
    for name, (records, says) in others.items():
        named = {f"archive/{record}".encode(): content for record, content in records.items()}
        yield _case("zip content", name, whole.holding(named).written(), says)
    for root in ("", "..", "a/b/c", "archive\n", "\x1b[2J"):
        says = damaged if root == "a/b/c" else ""
        yield _case("zip content", f"root {root!r}", archive_of(held, root).written(), says)
    rest = whole.without(b"archive/data.pkl")
    deep = b"\x80\x02" + b"(" * 1001 + b"."
    loud = rest.adding({b"archive/DATA.PKL": held["data.pkl"]})
    yield _case("zip content", "data.pkl in other letters", loud.written(), "")
    costly = rest.adding({b"archive/DATA.PKL": deep})
    yield _case("zip content", "costly data.pkl in other letters", costly.written(), "nested deeper than 1000")
    twice = whole.adding({b"archive/data.pkl": held["data.pkl"]})
    yield _case("zip content", "data.pkl twice", twice.written(), "has two records of one name")

    def many(path: Path) -> None:
        empty = {f"archive/data/empty{number}".encode(): b"" for number in range(70_000)}
        path.write_bytes(whole.adding(empty).written())

    yield Case("zip content", "70,000 records", many, suffix=".pth", says="records, more than 65536")
    nothing = Archive().holding({b"readme.txt": b"hello"})
    unpickled = "without the pickle that torch.save puts into its own"
    yield _case("zip content", "no pickle", nothing.written(), unpickled)
    yield _case("zip content", "folders", Archive().holding({b"archive/data.pkl/": b""}).written(), unpickled)


def zip_cases() -> Iterator[Case]:
    """Yield all of them."""
    for cases in (bombs, lies, contents):
        yield from cases()
