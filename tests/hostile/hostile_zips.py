"""Archives that are no files of `torch.save`, or claim to be more than they are."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from hostile_case import Case, small_state, writes

EMPTY = b"\x80\x02}q\x00."
END = b"PK\x05\x06"
ENTRY = b"PK\x01\x02"


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


def sound() -> bytes:
    """Return what `torch.save` makes of three small tensors."""
    buffer = io.BytesIO()
    torch.save(small_state(), buffer)
    return buffer.getvalue()


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

    for name in ("data.pkl", "version", "byteorder", ".data/serialization_id", "data/0", "constants.pkl"):
        yield Case("zip bomb", f"{name}, deflated", bomb(name, 2**29, zipfile.ZIP_DEFLATED), suffix=".pth")
    yield Case("zip bomb", "data.pkl, bzip2", bomb("data.pkl", 2**26, zipfile.ZIP_BZIP2), suffix=".pth")
    yield Case("zip bomb", "data.pkl, small and deflated", bomb("data.pkl", 2**20, zipfile.ZIP_DEFLATED), suffix=".pth")
    stored = bomb("data.pkl", 200 * 2**20, zipfile.ZIP_STORED)
    yield Case("zip bomb", "data.pkl of 200 MiB, stored", stored, suffix=".pth")
    compressed = archive(EMPTY, {"data/0": bytes(2**16)}, method=zipfile.ZIP_DEFLATED)
    yield Case("zip bomb", "a storage, deflated", writes(compressed), suffix=".pth")


def lies() -> Iterator[Case]:
    """Yield archives whose directory is not true."""
    content = sound()
    start, end = content.index(ENTRY), content.rindex(END)
    (size,) = struct.unpack_from("<I", content, start + 24)

    def changed(place: int, value: bytes) -> bytes:
        return content[:place] + value + content[place + len(value) :]

    lies = {
        "record larger than the file": changed(start + 20, struct.pack("<II", 2**31, 2**31)),
        "record of 4 GiB": changed(start + 20, b"\xff" * 8),
        "unpacks to more": changed(start + 24, struct.pack("<I", size * 1000)),
        "unpacks to less": changed(start + 24, struct.pack("<I", 1)),
        "method of no kind": changed(start + 10, struct.pack("<H", 99)),
        "deflated, by its word": changed(start + 10, struct.pack("<H", 8)),
        "encrypted": changed(start + 8, struct.pack("<H", 1)),
        "record beyond the file": changed(start + 42, struct.pack("<I", 2**31)),
        "record at the directory": changed(start + 42, struct.pack("<I", start)),
        "name beyond the directory": changed(start + 28, struct.pack("<H", 65535)),
        "extra beyond the directory": changed(start + 30, struct.pack("<H", 65535)),
        "no entries": changed(end + 8, struct.pack("<HH", 0, 0)),
        "fewer entries": changed(end + 8, struct.pack("<HH", 1, 1)),
        "more entries": changed(end + 8, struct.pack("<HH", 60000, 60000)),
        "directory beyond the file": changed(end + 12, struct.pack("<II", 2**31, 2**31)),
        "directory of nothing": changed(end + 12, struct.pack("<II", 0, 0)),
        "directory before itself": changed(end + 16, struct.pack("<I", 0)),
        "comment beyond the file": changed(end + 20, struct.pack("<H", 100)),
        "comment": content[:-2] + struct.pack("<H", 40) + b"x" * 40,
        "two ends": content + content[end:],
        "an end in the comment": content[:-2] + struct.pack("<H", 22) + END + bytes(18),
        "something before": b"PK\x03\x04" + content,
        "something after": content + bytes(100),
        "only an end": b"PK\x03\x04" + END + bytes(18),
        "second disk": changed(end + 4, struct.pack("<HH", 1, 1)),
    }  # fmt: skip
    for name, lie in lies.items():
        yield Case("zip directory", name, writes(lie), suffix=".pth")


def contents() -> Iterator[Case]:
    """Yield sound archives with records that no file of `torch.save` has."""
    others: dict[str, Mapping[str, bytes]] = {
        "climbing names": {"../../../canary": b"x"}, "absolute name": {"/canary": b"x"},
        "version of text": {"version": b"x" * 1000}, "version of 10**30": {"version": b"1" + b"0" * 30},
        "empty version": {"version": b""}, "negative version": {"version": b"-1"},
        "byteorder of text": {"byteorder": b"middle"}, "name of 60,000 letters": {"n" * 60_000: b""},
        "escape codes": {"\x1b[2J": b""}, "a null": {"data\0": b""}, "TorchScript": {"constants.pkl": EMPTY},
        "big endian": {"byteorder": b"big"},
    }  # fmt: skip
    for name, records in others.items():
        yield Case("zip content", name, writes(archive(EMPTY, records)), suffix=".pth")
    for root in ("", "..", "a/b/c", "archive\n", "\x1b[2J"):
        yield Case("zip content", f"root {root!r}", writes(archive(EMPTY, root=root)), suffix=".pth")

    def twice(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", EMPTY)
            info = zipfile.ZipInfo("archive/data.pkl")
            file.NameToInfo.clear()
            file.writestr(info, EMPTY)

    def many(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for number in range(70_000):
                file.writestr(zipfile.ZipInfo(f"archive/data/{number}"), b"")
            file.writestr("archive/data.pkl", EMPTY)

    def nothing(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", b"hello")

    def folder(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl/", b"")

    makers = {"data.pkl twice": twice, "70,000 records": many, "no pickle": nothing, "folders": folder}
    for name, make in makers.items():
        yield Case("zip content", name, make, suffix=".pth")


def zip_cases() -> Iterator[Case]:
    """Yield all of them."""
    for cases in (bombs, lies, contents):
        yield from cases()
