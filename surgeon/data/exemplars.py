"""Exemplars: labelled images that were synthesized from a checkpoint, and the file that keeps them."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from surgeon.bounded_json import BoundError, parse
from surgeon.checkpoint import write_tensors
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS
from surgeon.checkpoint.safetensors_file import read_header, read_safetensors
from surgeon.data.config import COLOR, GRAY
from surgeon.errors import CheckpointError, DataError

SUFFIX = ".exemplars.safetensors"
KEY = "surgeon_exemplars"
"""The header's entry that tells such a file from others."""

LONGEST = 10_000
"""Characters of that entry: it holds six short values."""

MOST_VALUES = 20
LONGEST_HEADER = 2**20
LARGEST_SIDE = 4096
WIDEST_RATIO = 16
"""Of the longer side to the shorter one: where the shorter one grows to the network's input, so does the other."""

MOST_BYTES = 2**31
"""Of all images together."""

MOST = {"classes": 2**20, "seed": 2**62, "steps": 2**31}
LEAST = {"classes": 2, "seed": 0, "steps": 1}
DIGESTS = ("checkpoint_sha256", "synthesis_sha256")
RECOGNIZED = "recognized"
SHA256_DIGITS = 64
_REMEDY = "Give a file that `surgeon apply` wrote beside a result; `surgeon apply` without --data makes new ones."


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
        synthesis_sha256: of everything that they were made from: weights, input, options. 64 hexadecimal digits.
        recognized: the share of the images, 0 … 1, that the network takes for their class; None where nobody asked.
    """

    images: Tensor
    labels: Tensor
    classes: int
    checkpoint_sha256: str
    seed: int
    steps: int
    synthesis_sha256: str
    recognized: float | None = None

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
            "synthesis_sha256": self.synthesis_sha256,
            **({} if self.recognized is None else {RECOGNIZED: self.recognized}),
        }


def check_shape(shape: Sequence[int]) -> None:
    """Refuse images that no file of exemplars may hold, before they are made or read.

    Args:
        shape: N, C, H and W.

    Raises:
        DataError: there are none, they have other channels than 1 or 3, or are too large, too long or too many.
    """
    count, channels, *sides = shape
    if channels not in (GRAY, COLOR):
        raise DataError(f"Exemplars of {channels} channels are none.", "Images have 1 or 3 channels.")
    height, width = sides
    if not 1 <= min(sides) <= max(sides) <= LARGEST_SIDE or max(sides) > WIDEST_RATIO * min(sides):
        raise DataError(
            f"Exemplars of {height}x{width} pixels are too large or too long.",
            f"Their sides may have {LARGEST_SIDE} pixels, and the longer one {WIDEST_RATIO} times those of the other.",
        )
    if not 1 <= math.prod(shape) <= MOST_BYTES:
        raise DataError(
            f"{count} exemplars of {height}x{width} pixels take more than {MOST_BYTES} bytes, or none.",
            "Take fewer, or smaller ones with --exemplar-size.",
        )


def save_exemplars(path: Path, exemplars: Exemplars, overwrite: bool = False) -> None:
    """Write exemplars as .safetensors, whole or not at all.

    Raises:
        OutputError: the path exists, is not for .safetensors or cannot be written.
    """
    write_tensors(path, *exemplar_content(exemplars), overwrite=overwrite)


def exemplar_content(exemplars: Exemplars) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header's entries that `save_exemplars` writes."""
    about = {name: getattr(exemplars, name) for name in (*LEAST, *DIGESTS)}
    if exemplars.recognized is not None:
        about[RECOGNIZED] = exemplars.recognized
    return {"images": exemplars.images, "labels": exemplars.labels}, {KEY: json.dumps(about, sort_keys=True)}


def read_exemplars(path: Path) -> Exemplars:
    """Read what `save_exemplars` has written. The file is not trusted: every value is checked.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    about = read_about(path)
    with _reading(path):
        tensors, _ = read_safetensors(path)
    images, labels = tensors["images"], tensors["labels"]
    if not 0 <= int(labels.min()) <= int(labels.max()) < about["classes"]:
        raise _refusal(path, f"has labels outside of its {about['classes']} classes")
    return Exemplars(images, labels, **about)


def read_about(path: Path) -> dict[str, Any]:
    """Read and check what such a file says of its exemplars, without reading a single one.

    Returns:
        The attributes of `Exemplars` by name, but images and labels.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    if path.suffix.lower() != SAFETENSORS or not path.is_file():
        raise DataError(f"{shown(path)} is no file of exemplars.", _REMEDY)
    with _reading(path):
        header = read_header(path, LONGEST_HEADER)
    about = _about(path, header.metadata)
    _check_kinds(path, header.kinds)
    return about


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise DataError(error.problem, _REMEDY) from error
    except OSError as error:
        raise DataError(f"The exemplars {shown(path)} cannot be read: {shown(error)}", _REMEDY) from error


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    text = metadata.get(KEY, "")
    if not text or len(text) > LONGEST:
        raise _refusal(path, "holds no exemplars")
    try:
        about = parse(text, most=MOST_VALUES, deepest=1, repeats=False, constant=float)
    except BoundError:
        raise _refusal(path, "describes them by more than its version does") from None
    except ValueError:
        raise _refusal(path, "describes them in something else than JSON") from None
    if not isinstance(about, dict) or set(about) - {RECOGNIZED} != {*LEAST, *DIGESTS}:
        raise _refusal(path, "describes them by other values than its version has")
    for name, least in LEAST.items():
        if type(about[name]) is not int or not least <= about[name] <= MOST[name]:
            raise _refusal(path, f"names {name} that are no whole number from {least} to {MOST[name]}")
    for digest in (about[name] for name in DIGESTS):
        if not isinstance(digest, str) or len(digest) != SHA256_DIGITS or set(digest) - set("0123456789abcdef"):
            raise _refusal(path, "names what they were made from by something else than 64 hexadecimal digits")
    share = about.get(RECOGNIZED, 0.0)
    if type(share) is not float or not 0 <= share <= 1:
        raise _refusal(path, "names a share of recognized images that is none")
    return about


def _check_kinds(path: Path, kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse any but two tensors, of a type and a size that exemplars can have, before memory is taken for them."""
    missing = {"images", "labels"} - set(kinds)
    if missing:
        raise _refusal(path, f"has no {' and no '.join(sorted(missing))}")
    if len(kinds) > len(("images", "labels")):
        raise _refusal(path, "has more tensors than images and labels")
    (pixel, shape), (integer, counted) = kinds["images"], kinds["labels"]
    if pixel != "U8" or len(shape) != len("NCHW"):
        raise _refusal(path, "has no images of 8-bit pixels")
    if integer != "I64" or len(counted) != 1:
        raise _refusal(path, "has no labels that are whole numbers")
    if shape[0] != counted[0]:
        raise _refusal(path, f"has {shape[0]} images and {counted[0]} labels")
    try:
        check_shape(shape)
    except DataError as error:
        raise DataError(f"{shown(path)} cannot be used: {error.problem}", _REMEDY) from error


def _refusal(path: Path, what: str) -> DataError:
    return DataError(f"The file {shown(path)} {what}.", _REMEDY)
