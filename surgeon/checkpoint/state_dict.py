"""From what a checkpoint file holds to a plain state dict: unnested, and without the prefixes of wrappers."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint.display import listed, shown
from surgeon.errors import CheckpointError

# Averaged weights first, as timm prefers them where a training checkpoint holds both.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
DEEPEST = 8

_REMEDY = "Give a file with a state dict: names and their tensors, alone or under 'state_dict' or 'model'."


def unnest(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Find the state dict in what a file held.

    Args:
        content: what `torch.load` returned.
        path: the file, for messages.

    Returns:
        The tensors by name, and the keys that lead to them, joined by dots ("" where they were not nested).

    Raises:
        CheckpointError: there is no state dict, or it holds anything but dense tensors on the CPU.
    """
    trail: list[str] = []
    while isinstance(content, Mapping) and (key := _wrapper(content)) and len(trail) < DEEPEST:
        trail.append(key)
        content = content[key]
    return _tensors(content, path), ".".join(trail)


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


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    return next((key for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]), None)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of named tensors.", _REMEDY)
    others = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if len(others) == len(content):
        keys = f"; its keys are {listed(others)}" if others else ""
        raise CheckpointError(f"{path} holds no tensors by name{keys}.", _REMEDY)
    if others:
        raise CheckpointError(f"{path} mixes its tensors with other values: {listed(others)}.", _REMEDY)
    return {name: _dense(name, value, path) for name, value in content.items()}


def _dense(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(
            f"The tensor {shown(name)} of {path} is sparse, quantized or without data.",
            "Give a checkpoint of dense tensors.",
        )
    return tensor.detach()
