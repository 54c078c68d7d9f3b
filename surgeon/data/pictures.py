"""Exemplars as PNG images in a folder, for the eye."""

import io
from pathlib import Path

import PIL.Image
from torch import Tensor

from surgeon.checkpoint import refuse_existing, write_bytes
from surgeon.data.config import GRAY
from surgeon.data.exemplars import Exemplars
from surgeon.errors import OutputError


def check_folder(folder: Path, overwrite: bool) -> None:
    """Check that PNG images may be written to a folder, before they are made.

    Raises:
        OutputError: its parent does not exist, it is no folder, or it has files in it and `overwrite` is false.
    """
    if folder.is_dir():
        if any(folder.iterdir()) and not overwrite:
            raise OutputError(f"The folder {folder} is not empty.", "Pass --overwrite, or name another one.")
        return
    refuse_existing(folder, overwrite=False)


def save_pictures(folder: Path, exemplars: Exemplars, overwrite: bool = False) -> None:
    """Write every exemplar as a PNG image, named by its number and its class, each whole or not at all.

    Raises:
        OutputError: see `check_folder`, or a file cannot be written.
    """
    check_folder(folder, overwrite)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Name another one.") from error
    for number, (pixels, label) in enumerate(zip(exemplars.images, exemplars.labels.tolist(), strict=True)):
        content = io.BytesIO()
        picture(pixels).save(content, "PNG")
        write_bytes(folder / f"{number:05}-class-{label}.png", content.getvalue(), overwrite)


def picture(pixels: Tensor) -> PIL.Image.Image:
    """Return an image [C, H, W] uint8, C = 1 or 3, for Pillow."""
    array = pixels.permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array[:, :, 0] if array.shape[2] == GRAY else array)
