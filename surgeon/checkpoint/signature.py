"""What a file is by its first bytes, whatever its name says."""

import codecs
from pathlib import Path
from typing import Literal

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.safetensors_file import LENGTH_BYTES, LONGEST_HEADER
from surgeon.checkpoint.torch_file import PICKLE_MAGIC, ZIP_MAGIC
from surgeon.errors import CheckpointError

Format = Literal["safetensors", "torch"]

LONGEST_MAGIC = 64

_IMAGE = "Give the checkpoint: surgeon takes images with --data."
_PAGE = "Fetch the file itself: the page may ask for a login or a confirmation."
_OTHER_NETWORK = "Give the network's weights as PyTorch or safetensors has them."

# In small letters; where the letters' case tells, no other file of a network starts like this.
FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file that it stands for", "Run git lfs pull."),
    (b"<!doctype html", "a web page", _PAGE),
    (b"<html", "a web page", _PAGE),
    (b"<?xml", "XML, as servers answer what they refuse", _PAGE),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it with gunzip and give the file inside it."),
    (b"bzh", "compressed with bzip2", "Unpack it with bunzip2 and give the file inside it."),
    (b"\xfd7zxz", "compressed with xz", "Unpack it with unxz and give the file inside it."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it with unzstd and give the file inside it."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and give the file inside it."),
    (b"rar!\x1a\x07", "a RAR archive", "Unpack it and give the file inside it."),
    (b"\x89png", "a PNG image", _IMAGE),
    (b"\xff\xd8\xff", "a JPEG image", _IMAGE),
    (b"gif8", "a GIF image", _IMAGE),
    (b"riff", "an image, a sound or a film (RIFF)", _IMAGE),
    (b"%pdf", "a PDF document", "Give the checkpoint."),
    (b"\x7felf", "a program", "Give the checkpoint."),
    (b"\x89hdf", "an HDF5 file of Keras or TensorFlow", _OTHER_NETWORK),
    (b"\x93numpy", "an array of NumPy", _OTHER_NETWORK),
    (b"gguf", "a GGUF file", "Give the checkpoint from which it was made."),
)


def file_format(path: Path) -> Format | None:
    """Tell which of the accepted formats a file has.

    Args:
        path: the file.

    Returns:
        Its format; None where the first bytes tell nothing, as those of a damaged file do.

    Raises:
        CheckpointError: the file is of a known format that holds no checkpoint.
    """
    with open_regular(path) as file:
        start = file.read(LONGEST_MAGIC)
    # The header is a JSON object behind its length, whose first byte may be that of a pickle.
    length, header = int.from_bytes(start[:LENGTH_BYTES], "little"), start[LENGTH_BYTES:]
    if length <= LONGEST_HEADER and header.startswith(b"{"):
        return "safetensors"
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for magic, what, remedy in FOREIGN:
        if text.startswith(magic):
            raise CheckpointError(f"{path} is {what}.", remedy)
    return "torch" if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)) else None
