"""Nested values and tensors in one safetensors file: the tensors by name, everything else as JSON in the header.

Nothing that such a file holds is run, and a file that is not as it was written is told by its digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.bounded_json import parse
from surgeon.checkpoint.safetensors_file import read_header, read_safetensors
from surgeon.checkpoint.write import write_tensors
from surgeon.errors import CheckpointError

TREE_KEY, DIGEST_KEY, LABEL_KEY = "surgeon_tree", "surgeon_digest", "surgeon_label"
MOST_VALUES = 2**21
MOST_IN_LABEL = 2**10
DEEPEST = 30
NOTHING = "nothing"
"""Name of a tensor without numbers: safetensors wants at least one."""

# The one letter that marks what JSON does not have: tuples, mappings with any keys, and tensors.
TUPLE, MAPPING, TENSOR, CHANNELS_LAST = "t", "m", "x", "c"


def write_tree(path: str | Path, tree: Any, label: Mapping[str, Any] | None = None) -> None:
    """Write a tree, whole or not at all; a file of this name is replaced.

    Args:
        path: a name that ends in .safetensors.
        tree: lists, tuples, mappings with text or whole numbers as keys, text, numbers, true, false, None and tensors,
            nested in any way. Tensors keep dtype, values (bitwise) and the order of their numbers in memory where that
            is torch's channels-last; which device they were on is not written.
        label: plain values by name that `read_label` gives without reading a tensor.

    Raises:
        TypeError: something else is in the tree.
        OutputError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {NOTHING: torch.empty(0)}
    text = json.dumps(_packed(tree, "tree", tensors), separators=(",", ":"))
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {TREE_KEY: text, DIGEST_KEY: digest(plain, text)}
    if label is not None:
        metadata[LABEL_KEY] = json.dumps(dict(label))
    write_tensors(path, plain, metadata, overwrite=True)


def read_label(path: str | Path) -> dict[str, Any]:
    """Read the label of a file of `write_tree`, which no digest protects; {} where it has none that can be read."""
    try:
        text = read_header(Path(path)).metadata.get(LABEL_KEY, "")
        label = parse(text, most=MOST_IN_LABEL, deepest=DEEPEST)
    except (OSError, ValueError, CheckpointError):
        return {}
    return label if isinstance(label, dict) else {}


def read_tree(path: str | Path) -> Any:
    """Read what `write_tree` wrote, with the tensors on the CPU, each with memory of its own.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this kind.
    """
    path = Path(path)
    try:
        tensors, metadata = read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    text = metadata.get(TREE_KEY, "")
    # It was written in ASCII, of which no letter takes more than a byte.
    if not text.isascii() or metadata.get(DIGEST_KEY) != digest(tensors, text):
        raise _damaged(path)
    try:
        return _unpacked(parse(text, most=MOST_VALUES, deepest=4 * DEEPEST, constant=float), tensors, DEEPEST)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _damaged(path) from error


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of a text and of tensors by name: their shapes, dtypes and bytes.

    Args:
        tensors: on any device.
        text: any.

    Returns:
        64 hexadecimal digits.
    """
    state = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged, or no file of this kind.", "Restore it, or do without it.")


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON types, with the tensors in it put under names."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Tensor):
        if name in tensors:
            name = f"{name}#{len(tensors)}"
        tensors[name] = value
        return {CHANNELS_LAST if _is_channels_last(value) else TENSOR: name}
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"{name} has keys that are neither text nor whole numbers.")
        return {MAPPING: [[key, _packed(entry, f"{name}/{key}", tensors)] for key, entry in value.items()]}
    if type(value) in (list, tuple):
        entries = [_packed(entry, f"{name}/{place}", tensors) for place, entry in enumerate(value)]
        return {TUPLE: entries} if type(value) is tuple else entries
    raise TypeError(f"{name} is a {type(value).__name__}, which cannot be written.")


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _unpacked(value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if not depth:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return [_unpacked(entry, tensors, depth - 1) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == TUPLE:
        return tuple(_unpacked(content, tensors, depth))
    if kind == MAPPING:
        return {_key(key): _unpacked(entry, tensors, depth - 1) for key, entry in content}
    order = {TENSOR: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}[kind]
    # Each only once: a small file could name one large tensor very often.
    return tensors.pop(content).clone(memory_format=order)


def _key(key: Any) -> str | int:
    if type(key) not in (str, int):
        raise TypeError("a key is neither text nor a whole number")
    return key
