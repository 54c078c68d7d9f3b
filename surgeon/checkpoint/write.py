"""Write checkpoints and records: whole or not at all, and never over something without being told to."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from surgeon.checkpoint.architecture import HEADER_ARGUMENTS_KEY, HEADER_KEY, Architecture
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.precision import Types, in_types, stored_types
from surgeon.checkpoint.safetensors_file import LENGTH_BYTES
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS_SUFFIX
from surgeon.checkpoint.structure_header import MARKER, STRUCTURE_KEY, to_text
from surgeon.checkpoint.structure_names import stripped
from surgeon.checkpoint.unfinished import held, remove_unheld
from surgeon.errors import OutputError
from surgeon.structure import structure_within

ALIGNMENT = 8
LEFTOVER = re.compile(r"\.surgeon-[0-9a-f]{8}-[0-9a-f]{16}\.tmp")
"""Names of files that are being written, of which a process that is killed leaves one."""

WITHOUT_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV}
)
"""What systems say that have no second name for a file."""

UNOPENED_FOLDERS = frozenset({errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
UNSYNCED_FOLDERS = frozenset({errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What systems say that do not open folders, or that do not bring them to the disk: files are there already."""


def save(
    path: str | Path,
    model: nn.Module,
    *,
    architecture: Architecture | None = None,
    metadata: Mapping[str, str] | None = None,
    types: Types | None = None,
    overwrite: bool = False,
) -> None:
    """Write a network's state dict as .safetensors, with its architecture in the header, and the sizes of its layers.

    A network whose layers have other sizes than its builder gives them, or cross-attention, is built again from such a
    file by `load` alone. The file then has one more tensor, by whose name other loaders refuse it.

    Args:
        path: where to; the file appears whole or not at all.
        model: any network, in wrappers or not; where tensors share memory, each is written.
        architecture: what the header says; by default the network's attribute `surgeon_architecture`, if it has one.
        metadata: further entries of the header.
        types: by state-dict key, the types in which tensors are written that are not written in their own; by default
            those in which the file had them that `load` took the network from.
        overwrite: replace a file that exists.

    Raises:
        OutputError: the path exists, is not for .safetensors or cannot be written, the state dict holds more than
            tensors, or values that are too large for the type in which they are to be written, or no numbers.
    """
    tensors, described = network_content(model, architecture=architecture, metadata=metadata, types=types)
    write_tensors(path, tensors, described, overwrite=overwrite)


def network_content(
    model: nn.Module,
    *,
    architecture: Architecture | None = None,
    metadata: Mapping[str, str] | None = None,
    types: Types | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header's entries that `save` writes of a network.

    Raises:
        OutputError: see `save`.
    """
    architecture = architecture or _architecture(model)
    tensors, structure = model.state_dict(), stripped(structure_within(model), model)
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise OutputError(
                f"{name} of the network is no tensor, and its file would lack it.",
                "Give a network whose state dict holds tensors only.",
            )
    tensors = in_types(tensors, stored_types(model) if types is None else types)
    described = _metadata(architecture, metadata or {})
    if structure:
        described[STRUCTURE_KEY] = to_text(structure)
        tensors = {**tensors, MARKER: torch.zeros(1, dtype=torch.uint8)}
    return dict(tensors), described


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write tensors as .safetensors, whole or not at all, and the same bytes for the same tensors.

    Args:
        path: where to.
        tensors: by name, on any device; where they share memory, each is written.
        metadata: the entries of the header.
        overwrite: replace a file that exists.

    Raises:
        OutputError: the path exists, is not for .safetensors or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != SAFETENSORS_SUFFIX:
        raise OutputError(
            f"{path} has the suffix {path.suffix or '(none)'}, and tensors are written as safetensors.",
            f"Give a name that ends in {SAFETENSORS_SUFFIX}.",
        )
    with replacing(path, overwrite) as file:
        write_into(file, tensors, metadata)


def write_into(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the content of a .safetensors file; see `write_tensors`."""
    # The path of a file of code may be no text in any encoding, and it is only for the reader.
    described = {name: text.encode(errors="backslashreplace").decode() for name, text in metadata.items()}
    _write_ordered(file, safetensors.torch.save(_separate_tensors(tensors), described))


def write_text(path: str | Path, text: str, overwrite: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: the path exists and `overwrite` is false, or it cannot be written.
    """
    write_bytes(path, text.encode(), overwrite)


def write_bytes(path: str | Path, content: bytes, overwrite: bool = False) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: the path exists and `overwrite` is false, or it cannot be written.
    """
    with replacing(Path(path), overwrite) as file:
        file.write(content)


def remove_leftovers(path: str | Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it.

    What another process is writing there just now stays.
    """
    path = Path(path)
    with contextlib.suppress(OSError):
        for one in list(path.parent.iterdir()):
            if LEFTOVER.fullmatch(one.name) and one.name.startswith(_mark(path)):
                remove_unheld(one)


def remove_output(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: that cannot be done.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be removed: {error.strerror}.", "Remove it by hand.") from error


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Check that a file may be written, without writing anything: before hours of work, say.

    Raises:
        OutputError: the path exists and `overwrite` is false, it is no regular file, or its folder does not exist.
    """
    path = Path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OutputError(f"The folder {path.parent} does not exist.", "Create it, or write elsewhere.") from None
        return
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OutputError(f"{path} is no regular file.", "Write to another name.")
    if not overwrite:
        raise OutputError(f"{path} exists.", "Pass --overwrite to replace it, or write to another name.")


class Staged:
    """A file that is written beside its place, and takes that once everything is on the disk.

    Attributes:
        path: its place.
        file: open for writing, until it is brought to the disk.
    """

    def __init__(self, path: Path, temporary: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self._temporary = temporary

    def sync(self) -> None:
        """Bring everything that was written to the disk.

        Raises:
            OutputError: that cannot be done.
        """
        with _named(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

    @property
    def sha256(self) -> str:
        """Of what is on the disk, as 64 hexadecimal digits."""
        with _named(self.path):
            return sha256_of(self._temporary)

    def put(self, overwrite: bool) -> None:
        """Take the place.

        Raises:
            OutputError: the path exists and `overwrite` is false, or it cannot be written.
        """
        with _named(self.path):
            _put(self._temporary, self.path, overwrite)
            sync_folder(self.path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Staged]:
    """A file beside the path, which is gone when the context ends, unless it was put in its place.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f"{_mark(path)}{secrets.token_hex(8)}.tmp")
    try:
        with _named(path), held(temporary) as file:
            yield Staged(path, temporary, file)
    finally:
        # One that stays is a leftover, which the next run removes.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A file beside the path, which takes its place once everything is on the disk; not so where an error is raised.

    Raises:
        OutputError: the path exists and `overwrite` is false, or it cannot be written.
    """
    refuse_existing(path, overwrite)
    with staged(path) as one:
        yield one.file
        one.sync()
        one.put(overwrite)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _put(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give a file its name; without `overwrite` not even where another process has taken it just now."""
    refuse_existing(path, overwrite)
    if not overwrite:
        try:
            # Unlike a replacement, a link never takes a name that there is; the first name goes in the end.
            os.link(temporary, path)
            return
        except FileExistsError:
            refuse_existing(path, overwrite)
            raise
        except OSError as error:
            if error.errno not in WITHOUT_LINKS:
                raise
    os.replace(temporary, path)


def _mark(path: Path) -> str:
    """How the name of a file begins that will take the place of this one: the name itself could be too long."""
    return f".surgeon-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}-"


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system does that for folders.

    Raises:
        OSError: the disk failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in UNOPENED_FOLDERS:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError | ValueError) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return OutputError(f"{shown(path)} cannot be written: {reason}.", "Make room there, or write elsewhere.")


def _architecture(model: nn.Module) -> Architecture | None:
    """What the network says that it is; torch's wrappers for many devices do not pass that on."""
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    found = getattr(model, "surgeon_architecture", None)
    assert found is None or isinstance(found, Architecture)
    return found


def _metadata(architecture: Architecture | None, metadata: Mapping[str, str]) -> dict[str, str]:
    described = {"format": "pt"}
    if architecture is not None:
        described[HEADER_KEY] = str(architecture)
        described[HEADER_ARGUMENTS_KEY] = json.dumps(architecture.arguments, sort_keys=True)
    return dict(metadata) | described


def _separate_tensors(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in contiguous memory that no two of them share: safetensors refuses anything else."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in given.items():
        tensor = value.detach().cpu().contiguous()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        address = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor if whole and address not in seen else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(address)
    return tensors


def _write_ordered(file: BinaryIO, content: bytes) -> None:
    """Write serialized safetensors with the header's entries in order: the library's order changes by the process."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    header = json.dumps(json.loads(content[LENGTH_BYTES:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    file.write(len(header).to_bytes(LENGTH_BYTES, "little"))
    file.write(header)
    file.write(memoryview(content)[start:])
