"""Read what `torch.save` wrote, tensors and plain containers only: no code of the file's choosing is ever run."""

import argparse
import mmap
import pickle
import re
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.display import listed
from surgeon.checkpoint.pickle_calls import Budget, DamagedPickleError, ForeignObjectError, PickleError
from surgeon.checkpoint.pickle_check import check_pickle
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS_SUFFIX
from surgeon.checkpoint.storage_check import StorageError, check_blocks, check_records
from surgeon.checkpoint.zip_directory import ArchiveError, records
from surgeon.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
"""The step that tells the protocol, with which each pickle starts that torch.save writes."""

TORCHSCRIPT = b"/constants.pkl"
PICKLES = b".pkl"
PICKLES_BEFORE_KEYS = 4
"""In a file of PyTorch before 1.6: a mark, a version, the system and the object; then the keys of its storages."""

_REMEDY = "Fetch the file again, or save its state dict with torch.save."
_ALONE = (
    "Have whoever made it save the weights alone: safetensors.torch.save_file(model.state_dict(), 'NAME.safetensors')."
)

# What the restricted unpickler and the zip reader raise on damaged files.
_DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ArithmeticError, AssertionError, AttributeError,
    LookupError, MemoryError, TypeError, ValueError, struct.error,
)  # fmt: skip


def read_torch(path: Path) -> Any:
    """Read a file of `torch.save` with `weights_only=True`, mapped into memory where its format allows.

    Raises:
        CheckpointError: the file is damaged, is no such file, holds objects other than tensors, or asks for more
            memory or time than tensors of its size take.
    """
    with open_regular(path) as file:
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    _look_through(path, zipped)
    try:
        # timm's trainer stores its arguments beside the weights; a Namespace is a bag of attributes and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            if path.name.endswith(SAFETENSORS_SUFFIX):
                # torch goes by the suffix, but only where it is given one.
                with open_regular(path) as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _DAMAGE as error:
        raise _refusal(path, str(error)) from error


def _look_through(path: Path, zipped: bool) -> None:
    """Refuse what would cost more than it is worth, before PyTorch sees it."""
    if _is_tar(path):
        raise CheckpointError(
            f"{path} is a tar archive, of whatever files, or as PyTorch before 0.2 wrote them.",
            f"Unpack it where it holds a checkpoint, and give that. {_ALONE}",
        )
    if not zipped and not _begins_as_pickle(path):
        raise CheckpointError(f"{path} does not begin as a file of torch.save does.", _REMEDY)
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            if zipped:
                _check_archive(path, content)
            else:
                _check_old(content)
        except (ArchiveError, StorageError) as error:
            raise CheckpointError(f"{path} {error}.", _REMEDY) from error
        except ForeignObjectError as error:
            raise _refusal(path, f"GLOBAL {error}") from error
        except PickleError as error:
            remedy = _REMEDY if isinstance(error, DamagedPickleError) else _ALONE
            raise CheckpointError(f"{path} holds a pickle that is not loaded: {error}.", remedy) from error


def _check_old(content: mmap.mmap) -> None:
    place, budget = 0, Budget(len(content))
    for _ in range(PICKLES_BEFORE_KEYS):
        seen = check_pickle(content, place, budget)
        place = seen.end
    keys = check_pickle(content, place, budget)
    check_blocks(content, keys.end, keys.value, seen.storages)


def _check_archive(path: Path, content: mmap.mmap) -> None:
    held = records(content)
    if any(record.name.endswith(TORCHSCRIPT) for record in held):
        raise _refusal(path, "TorchScript")
    if not any(record.name.lower().endswith(PICKLES) for record in held):
        raise ArchiveError("is a zip archive without the pickle that torch.save puts into its own")
    if not all(record.plain for record in held):
        raise ArchiveError("has records that are compressed or encrypted, as those of PyTorch never are")
    budget, by_name = Budget(len(content)), {record.name.lower(): record for record in held}
    for record in held:
        if record.name.lower().endswith(PICKLES):
            # Without a copy, and released at once: a file cannot be unmapped while something looks at it.
            with memoryview(content) as whole, whole[record.start : record.start + record.size] as part:
                seen = check_pickle(part, budget=budget)
            check_records(record.name, seen.storages, by_name)


def _is_tar(path: Path) -> bool:
    """Whether PyTorch would take a file for one of its oldest: it then makes a folder, even to refuse it."""
    with open_regular(path) as file:
        start = file.read(tarfile.BLOCKSIZE)
    # The first header only: those behind it may be any number, and each may lead to the next.
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    except (ValueError, OverflowError):
        return True
    return True


def _begins_as_pickle(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(len(PICKLE_MAGIC)) == PICKLE_MAGIC


def _refusal(path: Path, message: str) -> CheckpointError:
    if "TorchScript" in message:
        return CheckpointError(
            f"{path} is a TorchScript archive, which holds a program and not only weights.",
            "Save the network's state dict with torch.save instead.",
        )
    # torch names what it refuses, but in the midst of advice on how to load it nevertheless.
    objects = re.findall(r"GLOBAL ([\w.]+)", message)
    if objects or ("Weights only load failed" in message and "Unsupported" in message):
        named = f" ({listed(dict.fromkeys(objects))})" if objects else ""
        return CheckpointError(
            f"{path} holds Python objects other than tensors{named}, and loading those could run code.",
            _ALONE,
        )
    return CheckpointError(f"{path} is truncated, damaged, or no checkpoint of PyTorch.", _REMEDY)
