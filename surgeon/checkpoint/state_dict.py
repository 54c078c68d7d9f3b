"""From what a checkpoint file holds to a plain state dict: unnested, and without the prefixes of wrappers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.display import listed, shown
from surgeon.errors import CheckpointError
from surgeon.structure import ATTENDING

# Averaged weights first, as timm prefers them where a training checkpoint holds both.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
DEEPEST = 8

_REMEDY = "Give a file with a state dict: names and their tensors, alone or under 'state_dict' or 'model'."


@dataclass(frozen=True)
class Nest:
    """A state dict, and where in a file it was.

    Args:
        tensors: by name.
        key: the keys that lead to them, joined by dots; "" where they were not nested.
        passed_over: the keys, joined by dots, of other state dicts that could have been taken.
        attending: the convolutions that had cross-attention in the network that the tensors were taken from.
    """

    tensors: dict[str, Tensor]
    key: str = ""
    passed_over: tuple[str, ...] = ()
    attending: tuple[str, ...] = ()


def unnest(content: Any, path: Path, weights: str | None = None) -> Nest:
    """Find the state dict in what a file held.

    Args:
        content: what `torch.load` returned.
        path: the file, for messages.
        weights: the key of the state dict to take, or the keys that lead to it, joined by dots.

    Raises:
        CheckpointError: there is no state dict, none under `weights`, or it holds anything but dense tensors on the
            CPU.
    """
    trail: list[str] = []
    passed_over: list[str] = []
    if weights is not None:
        content, trail = _named_nest(content, weights, path), [weights]
    while isinstance(content, dict) and (keys := _wrappers(content)) and len(trail) < DEEPEST:
        passed_over += [".".join([*trail, key]) for key in keys[1:]]
        trail.append(keys[0])
        content = content[keys[0]]
    return Nest(_tensors(content, path), ".".join(trail), tuple(passed_over), _attending(content))


def _named_nest(content: Any, weights: str, path: Path) -> Any:
    known = [str(key) for key, value in dict.items(content) if _is_nest(value)] if isinstance(content, dict) else []
    for part in [weights] if weights in known else weights.split("."):
        content = dict.get(content, part) if isinstance(content, dict) else None
    if not _is_nest(content):
        raise CheckpointError(
            f"{path} holds no weights under the key {shown(weights)!r}.",
            f"Choose one of {listed(known)}." if known else "Leave the key out: the file holds one set of weights.",
        )
    return content


def common_prefix(names: Collection[str]) -> str:
    """The longest chain of wrapper prefixes that every name carries; no name is stripped to nothing."""
    prefix = ""
    while names:
        longer = [prefix + step for step in PREFIXES if all(_carries(name, prefix + step) for name in names)]
        if not longer:
            break
        prefix = longer[0]
    return prefix


def strip_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under names without the prefixes that all of them carry."""
    length = len(common_prefix(tensors.keys()))
    return {name[length:]: tensor for name, tensor in tensors.items()}


def _carries(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name != prefix


def _wrappers(content: dict[Any, Any]) -> list[str]:
    """The keys under which state dicts may be, those first whose nest does hold tensors."""
    keys = [key for key in WRAPPERS if isinstance(dict.get(content, key), dict) and content[key]]
    return [key for key in keys if _is_nest(content[key])] or keys[:1]


def _is_nest(value: Any) -> bool:
    """Whether tensors by name are in it, or in what its wrapper keys hold."""
    level = [value]
    for _ in range(DEEPEST):
        mappings = [one for one in level if isinstance(one, dict)]
        if any(isinstance(item, Tensor) for one in mappings for item in dict.values(one)):
            return True
        # A file may hold one mapping under many keys, and that on every level: each is looked at once.
        nests = (dict.get(one, key) for one in mappings for key in WRAPPERS)
        level = list({id(nested): nested for nested in nests}.values())
    return False


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of named tensors.", _REMEDY)
    others = [name for name, value in dict.items(content) if not (isinstance(name, str) and isinstance(value, Tensor))]
    if len(others) == len(content):
        keys = f"; its keys are {listed(others)}" if others else ""
        raise CheckpointError(f"{path} holds no tensors by name{keys}.", _REMEDY)
    if others:
        raise CheckpointError(f"{path} mixes its tensors with other values: {listed(others)}.", _REMEDY)
    return {name: _dense(name, value, path) for name, value in dict.items(content)}


def _attending(content: Any) -> tuple[str, ...]:
    """The layers of which torch's metadata of a state dict says that they have cross-attention."""
    described = getattr(content, "_metadata", None)
    if not isinstance(described, dict):
        return ()
    return tuple(
        name
        for name, entry in dict.items(described)
        if isinstance(name, str) and isinstance(entry, dict) and dict.get(entry, ATTENDING) is True
    )


def _dense(name: str, tensor: Tensor, path: Path) -> Tensor:
    # Without the attributes that the file gave it.
    tensor = Tensor.detach(tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(
            f"The tensor {shown(name)} of {path} is sparse, quantized or without data.",
            "Give a checkpoint of dense tensors.",
        )
    storage = tensor.untyped_storage()
    if tensor.nbytes > storage.nbytes():
        raise CheckpointError(
            f"The tensor {shown(name)} of {path} has {tensor.numel()} numbers, more than its storage.",
            "Save a contiguous copy of it.",
        )
    return tensor


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the memory of the storages of tensors, each of which counts once."""
    sizes: dict[int, int] = {}
    for storage in map(Tensor.untyped_storage, tensors.values()):
        # Where an empty one begins, another may.
        sizes[storage.data_ptr()] = max(storage.nbytes(), sizes.get(storage.data_ptr(), 0))
    return sum(sizes.values())
