"""Read .safetensors, after its header has been checked against the file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from surgeon.checkpoint.display import shown
from surgeon.errors import CheckpointError

SUFFIX = ".safetensors"
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

_REMEDY = "Fetch or save the file again."


@dataclass(frozen=True)
class Header:
    """What a .safetensors file says of itself, and what its size bears out.

    Args:
        kinds: the dtype of every tensor by name, as the format writes it, and its shape.
        metadata: the other entries.
    """

    kinds: Mapping[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a .safetensors file.

    Returns:
        The tensors by name, and the header's metadata.

    Raises:
        CheckpointError: the header is malformed, or describes data that the file does not have.
    """
    metadata = read_header(path).metadata
    try:
        return safetensors.torch.load_file(path), metadata
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no sound safetensors file: {shown(error)}.", _REMEDY) from error


def read_header(path: Path, longest: int = LONGEST_HEADER) -> Header:
    """Read the header of a .safetensors file and hold it against the file, without reading a tensor.

    Args:
        path: the file.
        longest: bytes of the header, at most.

    Raises:
        CheckpointError: the header is malformed, too long, or describes data that the file does not have.
    """
    header, data_bytes = _parsed(path, longest)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"The metadata in the header of {path} is not text by name.", _REMEDY)
    if not header:
        raise CheckpointError(f"{path} holds no tensor.", _REMEDY)
    return Header({name: _kind(path, name, entry, data_bytes) for name, entry in header.items()}, metadata)


def _parsed(path: Path, longest: int) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes of data follow it."""
    after_length = path.stat().st_size - LENGTH_BYTES
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if after_length < 0 or length > min(after_length, LONGEST_HEADER):
            raise CheckpointError(f"{path} is truncated or no safetensors file: it ends before its header.", _REMEDY)
        if length > longest:
            raise CheckpointError(
                f"The header of {path} has {length} bytes, more than the {longest} of its kind.", _REMEDY
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file: its header is not JSON.", _REMEDY) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header names no tensors.", _REMEDY)
    return header, after_length - length


def _kind(path: Path, name: str, entry: Any, data_bytes: int) -> tuple[str, tuple[int, ...]]:
    """The dtype and the shape of an entry that fits the file."""
    where = f"The tensor {shown(name)} in the header of {path}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where} is malformed.", _REMEDY)
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_integers(shape) or not _are_integers(offsets) or len(offsets) != 2 or any(n < 0 for n in shape):
        raise CheckpointError(f"{where} is malformed.", _REMEDY)
    item_bytes = ITEM_BYTES.get(str(entry.get("dtype")))
    if item_bytes is None:
        raise CheckpointError(f"{where} has the unknown type {shown(entry.get('dtype'))}.", _REMEDY)
    start, end = offsets
    if not 0 <= start <= end <= data_bytes:
        raise CheckpointError(f"{where} lies outside the file, which is truncated or damaged.", _REMEDY)
    if end - start != item_bytes * math.prod(shape):
        raise CheckpointError(f"{where} has {end - start} bytes, which its shape {shape} does not take.", _REMEDY)
    return str(entry["dtype"]), tuple(shape)


def _are_integers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)
