"""Folders of small images, and what may happen to some of them."""

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "fox")


def image_folder(folder: Path, each: int = 8, size: int = 8, suffix: str = "png") -> Path:
    """Write a folder a class, of images whose brightness tells the class, with some noise."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for place in range(each):
            pixels = noise.integers(0, 60, (size, size), dtype=np.uint8) + 90 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{place}.{suffix}")
    return folder


def bomb() -> bytes:
    """Return a PNG of a few bytes that claims 20,000 x 20,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (20_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _vanish(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    content = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG")
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.unlink()
    path.symlink_to("pipe")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "vanished": _vanish,
    "a truncated JPEG": _truncate,
    "zero bytes": lambda path: _write(path, b""),
    "text": lambda path: _write(path, b"no image"),
    "a decompression bomb": lambda path: _write(path, bomb()),
    "a folder": _become_folder,
    **({"a pipe": _become_pipe, "a link to a pipe": _become_link_to_pipe} if hasattr(os, "mkfifo") else {}),
}
"""What may happen to the file of an image."""
