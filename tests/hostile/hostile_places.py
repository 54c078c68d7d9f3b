"""What a path may lead to besides a file."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_case import ARCH, Case, laid_out, whole_state, writes


def _linked(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.symlink_to(target)

    return make


def _loop(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").write_bytes(laid_out(whole_state()))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _sound_link(path: Path) -> None:
    path.with_name("target.bin").write_bytes(laid_out(whole_state()))
    path.symlink_to("target.bin")


def _beside(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """A sound file, with something else as its config.json."""

    def both(path: Path) -> None:
        path.write_bytes(laid_out(whole_state()))
        make(path.with_name("config.json"))

    return both


MAKERS: dict[str, Callable[[Path], None]] = {
    "folder": _folder, "pipe": os.mkfifo, "socket": _socket, "dangling link": _linked("nowhere"),
    "link to itself": _loop, "link to a folder": _linked("."), "link to /dev/zero": _linked("/dev/zero"),
    "link to /dev/random": _linked("/dev/random"), "link to the terminal": _linked("/dev/tty"),
    "link to /proc/self/mem": _linked("/proc/self/mem"), "link to /proc/kmsg": _linked("/proc/kmsg"),
    "nothing": lambda path: None, "empty": writes(b""), "one byte": writes(b"\0"), "a null": writes(bytes(100)),
}  # fmt: skip


SAYS = {
    **dict.fromkeys(["folder", "link to a folder"], "is a folder"),
    **dict.fromkeys(
        ["pipe", "socket", "link to /dev/zero", "link to /dev/random", "link to the terminal"], "no regular file"),
    **dict.fromkeys(["dangling link", "nothing"], "does not exist"),
    **dict.fromkeys(["link to /proc/self/mem", "link to /proc/kmsg", "empty"], "is empty"),
    "link to itself": "cannot be opened",
}  # fmt: skip
GARBAGE = {
    "one byte": {".safetensors": "it ends before its header", ".pth": "does not begin as a file of torch"},
    "a null": {".safetensors": "its header is not JSON", ".pth": "does not begin as a file of torch"},
}
KNOWN = {
    "web page": "is a web page", "Git LFS": "a pointer of Git LFS", "gzip": "compressed with gzip",
    "bzip2": "compressed with bzip2", "xz": "compressed with xz", "HDF5": "an HDF5 file", "NumPy": "an array of NumPy",
    "GGUF": "a GGUF file", "picture": "is a PNG image", "program": "is a program",
}  # fmt: skip
"""What is said of foreign files that are told by their first bytes."""


def place_cases() -> Iterator[Case]:
    """Yield all of them."""
    for name, make in MAKERS.items():
        for suffix in (".safetensors", ".pth"):
            yield Case("place", f"{name}{suffix}", make, suffix=suffix, says=SAYS.get(name) or GARBAGE[name][suffix])
    for suffix in (".npz", ".safetensors.gz", "", ".py", ".pkl"):
        yield Case(
            "place", f"suffix {suffix or 'of none'}", writes(laid_out(whole_state())), suffix=suffix, says="suffix"
        )
    foreign = {
        "web page": b"<!DOCTYPE html><html>", "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
        "gzip": b"\x1f\x8b" + bytes(50), "bzip2": b"BZh9" + bytes(50), "xz": b"\xfd7zXZ\0" + bytes(50),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50), "NumPy": b"\x93NUMPY" + bytes(50), "GGUF": b"GGUF" + bytes(50),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(50), "program": b"\x7fELF" + bytes(50), "text": b"hello" * 50,
        "script": b"#!/bin/sh\ntouch canary\n", "Python": b"import os\nos.mkdir('canary')\n",
    }  # fmt: skip
    for name, content in foreign.items():
        for suffix in (".safetensors", ".bin"):
            says = KNOWN.get(name) or (
                "it ends before its header" if suffix == ".safetensors" else "does not begin as a file of torch"
            )
            yield Case("foreign", f"{name}{suffix}", writes(content), suffix=suffix, says=says)
    yield Case("place", "link to a sound file", _sound_link, outcome="read", whole=True)
    for name in ("pipe", "socket", "dangling link", "link to itself", "link to /dev/zero", "empty", "folder"):
        # Nothing there names a network; with --arch it is not even looked at.
        says = "is not JSON" if name == "empty" else "no config.json that names it"
        yield Case("config.json", f"is a {name}", _beside(MAKERS[name]), arch=None, says=says)
        yield Case(
            "config.json", f"is a {name}, and --arch is given", _beside(MAKERS[name]), "read", arch=ARCH, whole=True
        )
