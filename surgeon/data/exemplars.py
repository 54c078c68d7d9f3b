"""Exemplars: labelled images that were synthesized from a checkpoint, and the file that keeps them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surgeon.checkpoint import write_tensors
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS
from surgeon.checkpoint.safetensors_file import read_safetensors
from surgeon.data.config import COLOR, GRAY
from surgeon.errors import CheckpointError, DataError

SUFFIX = ".exemplars.safetensors"
KEY = "surgeon_exemplars"
"""The header's entry that tells such a file from others."""

LONGEST = 10_000
"""Characters of that entry: it holds eight short values."""

MOST = {"classes": 2**20, "seed": 2**62, "steps": 2**31}
LEAST = {"classes": 2, "seed": 0, "steps": 1}
SHA256_DIGITS = 64
_REMEDY = "Give a file that `surgeon apply` wrote beside a result, or leave --data out to have new ones made."


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Images of classes, synthesized from a network.

    Args:
        images: [N, C, H, W] uint8, C = 1 or 3; N at least 1.
        labels: [N] int64 in 0 … classes - 1, the class that each image was made for.
        classes: number of classes of the network.
        checkpoint_sha256: of the file that the network was read from, as 64 hexadecimal digits.
        seed: of the synthesis.
        steps: of the optimization.
    """

    images: Tensor
    labels: Tensor
    classes: int
    checkpoint_sha256: str
    seed: int
    steps: int

    def described(self) -> dict[str, Any]:
        """Return what a record says about them."""
        count, _, height, width = self.images.shape
        return {
            "count": count,
            "size": [height, width],
            "classes": self.classes,
            "seed": self.seed,
            "steps": self.steps,
            "checkpoint_sha256": self.checkpoint_sha256,
        }


def save_exemplars(path: Path, exemplars: Exemplars, overwrite: bool = False) -> None:
    """Write exemplars as .safetensors, whole or not at all.

    Raises:
        OutputError: the path exists, is not for .safetensors or cannot be written.
    """
    about = {name: getattr(exemplars, name) for name in ("classes", "checkpoint_sha256", "seed", "steps")}
    tensors = {"images": exemplars.images, "labels": exemplars.labels}
    write_tensors(path, tensors, {KEY: json.dumps(about, sort_keys=True)}, overwrite=overwrite)


def read_exemplars(path: Path) -> Exemplars:
    """Read what `save_exemplars` has written. The file is not trusted: every value is checked.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    if path.suffix.lower() != SAFETENSORS or not path.is_file():
        raise DataError(f"{shown(path)} is no file of exemplars.", _REMEDY)
    try:
        tensors, metadata = read_safetensors(path)
    except (CheckpointError, OSError) as error:
        raise DataError(f"The exemplars {shown(path)} cannot be read: {shown(error)}", _REMEDY) from error
    about = _about(path, metadata)
    images, labels = _images(path, tensors), _labels(path, tensors, about["classes"])
    if len(images) != len(labels):
        raise _refusal(path, f"has {len(images)} images and {len(labels)} labels")
    return Exemplars(images, labels, **about)


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    text = metadata.get(KEY, "")
    if not text or len(text) > LONGEST:
        raise _refusal(path, "holds no exemplars")
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise _refusal(path, "describes them in something else than JSON") from None
    if not isinstance(about, dict) or set(about) != {*LEAST, "checkpoint_sha256"}:
        raise _refusal(path, "describes them by other values than its version has")
    for name, least in LEAST.items():
        if type(about[name]) is not int or not least <= about[name] <= MOST[name]:
            raise _refusal(path, f"names {name} that are no whole number from {least} to {MOST[name]}")
    digest = about["checkpoint_sha256"]
    if not isinstance(digest, str) or len(digest) != SHA256_DIGITS or set(digest) - set("0123456789abcdef"):
        raise _refusal(path, "names no checkpoint by 64 hexadecimal digits")
    return about


def _images(path: Path, tensors: dict[str, Tensor]) -> Tensor:
    images = tensors.get("images")
    if images is None or images.dtype != torch.uint8 or images.dim() != 4 or not images.numel():
        raise _refusal(path, "has no images of 8-bit pixels")
    if images.shape[1] not in (GRAY, COLOR):
        raise _refusal(path, f"has images of {images.shape[1]} channels")
    return images


def _labels(path: Path, tensors: dict[str, Tensor], classes: int) -> Tensor:
    labels = tensors.get("labels")
    if labels is None or labels.dtype != torch.int64 or labels.dim() != 1 or not labels.numel():
        raise _refusal(path, "has no labels")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise _refusal(path, f"has labels outside of its {classes} classes")
    return labels


def _refusal(path: Path, what: str) -> DataError:
    return DataError(f"The file {shown(path)} {what}.", _REMEDY)
