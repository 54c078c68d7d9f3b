"""Read a checkpoint file of any accepted format into named tensors."""

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS_SUFFIX
from surgeon.checkpoint.safetensors_file import read_safetensors
from surgeon.checkpoint.signature import Format, file_format
from surgeon.checkpoint.state_dict import Nest, common_prefix, stored_bytes, strip_prefix, unnest
from surgeon.checkpoint.structure_header import MARKER, STRUCTURE_KEY
from surgeon.checkpoint.torch_file import read_torch
from surgeon.errors import CheckpointError

Version = tuple[int, ...]

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
        notes: what a reader of the results should know.
        attending: the convolutions that had cross-attention in the network that the tensors were taken from, where a
            file of `torch.save` says so.
        version: what another content of the file shows by; None where the tensors are of no file.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    nested_under: str = ""
    notes: tuple[str, ...] = ()
    attending: tuple[str, ...] = ()
    version: Version | None = None

    def check_unchanged(self) -> None:
        """Check that the file is still what it was, after the last look at its tensors: they may be mapped from it.

        Raises:
            CheckpointError: it was changed, or is gone.
        """
        if self.version is not None and _version(self.path) != self.version:
            raise CheckpointError(f"{self.path} was changed while it was read.", "Try again when nobody writes to it.")


def read(path: str | Path, weights: str | None = None) -> Checkpoint:
    """Read a checkpoint without running anything that it holds.

    Args:
        path: a .safetensors file, or a .pt, .pth, .th, .tar or .bin file of `torch.save`; which of both formats it has
            is read from its first bytes.
        weights: the key of the state dict to take where the file holds several, e.g. `model_ema`; without it averaged
            weights are preferred, and a note says so.

    Raises:
        CheckpointError: the file is missing, foreign, damaged, changes meanwhile, holds anything but named tensors, or
            nothing under the key `weights`.
    """
    path = Path(path)
    _check_file(path)
    metadata: dict[str, str] = {}
    try:
        before = _version(path)
        if (file_format(path) or _promised_format(path)) == "safetensors":
            content, metadata = read_safetensors(path)
            if STRUCTURE_KEY in metadata and len(content) > 1:
                # Only there for other loaders.
                content.pop(MARKER, None)
            nest = unnest(content, path, weights)
        else:
            nest = unnest(read_torch(path), path, weights)
        _check_claim(path, nest.tensors)
        # Last, since it takes as long as the file is large: what is refused need not be read through.
        sha256 = _sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    start = len(common_prefix(nest.tensors.keys()))
    attending = tuple(f"{name}."[start:].removesuffix(".") for name in nest.attending)
    tensors = strip_prefix(nest.tensors)
    checkpoint = Checkpoint(path, tensors, metadata, sha256, nest.key, _notes(path, nest), attending, before)
    checkpoint.check_unchanged()
    return checkpoint


def _check_claim(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that together have more memory than the file has bytes, before any of it is looked at."""
    if (claimed := stored_bytes(tensors)) > (size := path.stat().st_size):
        raise CheckpointError(
            f"{path} claims {claimed} bytes of tensors, and has {size} in all.", "Fetch or save the file again."
        )


def _version(path: Path) -> Version:
    """What another content of a file shows by, without reading it again; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    # The time of the last change of any kind is the one that nobody can set.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _promised_format(path: Path) -> Format:
    return "safetensors" if path.suffix.lower() == SAFETENSORS_SUFFIX else "torch"


def _notes(path: Path, nest: Nest) -> tuple[str, ...]:
    if not nest.passed_over:
        return ()
    others = " and ".join(nest.passed_over)
    return (f"{path} holds several sets of weights: those under {nest.key} are taken, and not those under {others}.",)


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
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
