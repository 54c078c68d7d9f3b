"""Exemplars as PNG images in a folder, for the eye."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
from torch import Tensor

from surgeon.checkpoint import refuse_existing, write_bytes
from surgeon.checkpoint.write import LEFTOVER
from surgeon.data.config import GRAY
from surgeon.data.exemplars import Exemplars
from surgeon.errors import OutputError

NAME = re.compile(r"\d{5,}-class-\d+\.png")
"""Of what `save_pictures` writes."""


def check_folder(folder: Path, overwrite: bool, exemplars: Exemplars | None = None) -> None:
    """Check that PNG images may be written to a folder, before they are made.

    Args:
        folder: where to.
        overwrite: it may hold anything.
        exemplars: it may hold images of these, as a run leaves them that was killed while it wrote.

    Raises:
        OutputError: its parent does not exist, it is no folder, or it has other files in it.
    """
    if not folder.is_dir():
        refuse_existing(folder, overwrite=False)
    elif not overwrite and not _holds_only(folder, exemplars):
        raise OutputError(f"The folder {folder} is not empty.", "Pass --overwrite, or name another one.")


def save_pictures(folder: Path, exemplars: Exemplars, overwrite: bool = False) -> None:
    """Write every exemplar as a PNG image, named by its number and its class, each whole or not at all.

    Args:
        folder: where to; made where it is missing.
        exemplars: the images; of those that stand there already nothing is written.
        overwrite: images of other exemplars may be replaced, and those that are left over are removed.

    Raises:
        OutputError: see `check_folder`, or a file cannot be written.
    """
    check_folder(folder, overwrite, exemplars)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Name another one.") from error
    for path in list(folder.iterdir()):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
    written = set()
    for name, content in _files(exemplars):
        written.add(name)
        if not _holds(folder / name, content):
            write_bytes(folder / name, content, overwrite)
    if overwrite:
        for path in list(folder.iterdir()):
            if NAME.fullmatch(path.name) and path.name not in written and path.is_file():
                path.unlink(missing_ok=True)


def _files(exemplars: Exemplars) -> Iterator[tuple[str, bytes]]:
    for number, (pixels, label) in enumerate(zip(exemplars.images, exemplars.labels.tolist(), strict=True)):
        content = io.BytesIO()
        picture(pixels).save(content, "PNG")
        yield f"{number:05}-class-{label}.png", content.getvalue()


def _holds_only(folder: Path, exemplars: Exemplars | None) -> bool:
    """Whether there is nothing in a folder but images of these exemplars."""
    left = {path.name for path in folder.iterdir() if not LEFTOVER.fullmatch(path.name)}
    if left and exemplars is not None:
        left -= {name for name, content in _files(exemplars) if _holds(folder / name, content)}
    return not left


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def picture(pixels: Tensor) -> PIL.Image.Image:
    """Return an image [C, H, W] uint8, C = 1 or 3, for Pillow."""
    array = pixels.permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array[:, :, 0] if array.shape[2] == GRAY else array)
