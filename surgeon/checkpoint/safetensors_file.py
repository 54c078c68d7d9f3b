"""Read .safetensors, after its header has been checked against the file."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from surgeon.bounded_file import decoded, open_regular
from surgeon.bounded_json import BoundError, parse
from surgeon.checkpoint.display import shown
from surgeon.errors import CheckpointError

SUFFIX = ".safetensors"
LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
"""Bytes: no file of the format has more."""

LONGEST_READ = 2**25
"""Bytes of a header that are read."""

MOST_TENSORS = 2**15
MOST_VALUES = 2**19
"""Numbers, texts, lists and objects in a header: a tensor has up to 12."""

DEEPEST = 8
MOST_AXES = 64
LARGEST = 2**63
METADATA = "__metadata__"
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


def read_safetensors(path: Path, longest: int = LONGEST_READ) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a .safetensors file.

    Args:
        path: the file.
        longest: bytes of the header, at most.

    Returns:
        The tensors by name, and the header's metadata.

    Raises:
        CheckpointError: the header is malformed, or describes data that the file does not have.
    """
    metadata = read_header(path, longest).metadata
    try:
        return safetensors.torch.load_file(path), metadata
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no sound safetensors file: {shown(error)}.", _REMEDY) from error


def read_header(path: Path, longest: int = LONGEST_READ) -> Header:
    """Read the header of a .safetensors file and hold it against the file, without reading a tensor.

    Args:
        path: the file.
        longest: bytes of the header, at most.

    Raises:
        CheckpointError: the header is malformed, holds too much, or describes other data than the file has.
    """
    header, data_bytes = _parsed(path, longest)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"The metadata in the header of {path} is not text by name.", _REMEDY)
    if not header:
        raise CheckpointError(f"{path} holds no tensor.", _REMEDY)
    if len(header) > MOST_TENSORS:
        raise CheckpointError(f"{path} names {len(header)} tensors, more than {MOST_TENSORS}.", _REMEDY)
    kinds = {name: _kind(path, name, entry, data_bytes) for name, entry in header.items()}
    _check_layout(path, header, data_bytes)
    return Header(kinds, metadata)


def _parsed(path: Path, longest: int) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes of data follow it."""
    with open_regular(path) as file:
        after_length = os.fstat(file.fileno()).st_size - LENGTH_BYTES
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(after_length, LONGEST_HEADER):
            raise CheckpointError(f"{path} is truncated or no safetensors file: it ends before its header.", _REMEDY)
        if length > longest:
            raise CheckpointError(
                f"The header of {path} has {length} bytes, more than the {longest} of its kind.", _REMEDY
            )
        content = file.read(length)
    try:
        text = decoded(content)
        # As text it may take twice the memory, and so may what it says.
        del content
        header = parse(text, most=MOST_VALUES, deepest=DEEPEST, repeats=False)
    except BoundError as error:
        raise CheckpointError(f"{path} has a header that is not read: {error}.", _REMEDY) from error
    except ValueError as error:
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
    if not _are_integers(shape) or not _are_integers(offsets) or len(offsets) != 2 or len(shape) > MOST_AXES:
        raise CheckpointError(f"{where} is malformed.", _REMEDY)
    # The product of long numbers takes long: they are looked at before.
    if not all(0 <= number < LARGEST for number in shape):
        raise CheckpointError(f"{where} is malformed.", _REMEDY)
    item_bytes = ITEM_BYTES.get(str(entry.get("dtype")))
    if item_bytes is None:
        raise CheckpointError(f"{where} has the unknown type {shown(entry.get('dtype'))}.", _REMEDY)
    start, end = offsets
    if not 0 <= start <= end <= data_bytes:
        raise CheckpointError(f"{where} lies outside the file, which is truncated or damaged.", _REMEDY)
    if end - start != item_bytes * math.prod(shape):
        size = f"{end - start} bytes, which its shape {shown(shape)} does not take"
        raise CheckpointError(f"{where} has {size}.", _REMEDY)
    return str(entry["dtype"]), tuple(shape)


def _check_layout(path: Path, header: Mapping[str, Any], data_bytes: int) -> None:
    """Refuse tensors that overlap, and bytes that are no tensor's."""
    place = 0
    spans = sorted((*entry["data_offsets"], name) for name, entry in header.items())
    for start, end, name in spans:
        if start != place:
            fault = "overlaps another one" if start < place else "leaves a gap before it"
            raise CheckpointError(f"The tensor {shown(name)} in the header of {path} {fault}.", _REMEDY)
        place = end
    if place != data_bytes:
        raise CheckpointError(f"{path} has {data_bytes - place} bytes behind its last tensor.", _REMEDY)


def _are_integers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int for value in values)
