"""Read a checkpoint file of any accepted format into named tensors."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from surgeon.checkpoint.safetensors_file import read_safetensors
from surgeon.checkpoint.state_dict import strip_prefix, unnest
from surgeon.checkpoint.torch_file import read_torch
from surgeon.errors import CheckpointError

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".th", ".tar", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        path: the file.
        tensors: the state dict, unnested and without wrapper prefixes, on the CPU; possibly mapped from the file.
        metadata: the header of a .safetensors file; empty for other formats.
        sha256: of the file, as 64 hexadecimal digits.
        nested_under: the keys under which the file kept the state dict, joined by dots; "" where it was not nested.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    nested_under: str = ""


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running anything that it holds.

    Args:
        path: a .safetensors file, or a .pt, .pth, .th, .tar or .bin file of `torch.save`.

    Raises:
        CheckpointError: the file is missing, foreign, damaged, or holds anything but named tensors.
    """
    path = Path(path)
    _check_file(path)
    suffix = path.suffix.lower()
    metadata: dict[str, str] = {}
    nested_under = ""
    try:
        sha256 = _sha256(path)
        if suffix == SAFETENSORS_SUFFIX:
            tensors, metadata = read_safetensors(path)
        else:
            tensors, nested_under = unnest(read_torch(path), path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    return Checkpoint(path, strip_prefix(tensors), metadata, sha256, nested_under)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.", "Check the path of the checkpoint.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be opened: {error}.", "Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f"{path} is a folder, not a checkpoint file.", "Give the file inside it.")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is no regular file.", "Save the checkpoint to a file and give that.")
    if status.st_size == 0:
        raise CheckpointError(f"{path} is empty.", "Fetch or save the file again.")
    if path.suffix.lower() not in (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES):
        known = ", ".join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))
        raise CheckpointError(
            f"{path} has the suffix {path.suffix or '(none)'}, which is of no known checkpoint format.",
            f"Give a file that ends in one of {known}.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
