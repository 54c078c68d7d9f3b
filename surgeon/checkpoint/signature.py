"""What a file is by its first bytes, whatever its name says."""

from pathlib import Path
from typing import Literal

from surgeon.checkpoint.safetensors_file import LENGTH_BYTES, LONGEST_HEADER
from surgeon.checkpoint.torch_file import ZIP_MAGIC
from surgeon.errors import CheckpointError

Format = Literal["safetensors", "torch"]

# torch's format before 1.6 is a row of pickles, each of which starts with this opcode and its protocol.
PICKLE = b"\x80"
LONGEST_MAGIC = 64

FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file that it stands for", "Run git lfs pull."),
    (b"<!doctype html", "a web page", "Fetch the file itself: the page may ask for a login or a confirmation."),
    (b"<html", "a web page", "Fetch the file itself: the page may ask for a login or a confirmation."),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it with gunzip and give the file inside it."),
    (b"BZh", "compressed with bzip2", "Unpack it with bunzip2 and give the file inside it."),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it with unxz and give the file inside it."),
    (b"\x89hdf", "an HDF5 file of Keras or TensorFlow", "Save the network's state dict with PyTorch instead."),
    (b"\x93numpy", "an array of NumPy", "Save the network's state dict with PyTorch instead."),
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
    with path.open("rb") as file:
        start = file.read(LONGEST_MAGIC)
    for magic, what, remedy in FOREIGN:
        if start.lower().startswith(magic.lower()):
            raise CheckpointError(f"{path} is {what}.", remedy)
    # The header is a JSON object behind its length, whose first byte may be that of a pickle.
    length, header = int.from_bytes(start[:LENGTH_BYTES], "little"), start[LENGTH_BYTES:]
    if length <= LONGEST_HEADER and header.startswith(b"{"):
        return "safetensors"
    return "torch" if start.startswith((ZIP_MAGIC, PICKLE)) else None
