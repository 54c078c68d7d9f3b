"""Read what `torch.save` wrote, tensors and plain containers only: no code of the file's choosing is ever run."""

import argparse
import pickle
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from surgeon.checkpoint.display import listed
from surgeon.checkpoint.safetensors_file import SUFFIX as SAFETENSORS_SUFFIX
from surgeon.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"

# What the restricted unpickler and the zip reader raise on damaged files.
_DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ArithmeticError, AssertionError, AttributeError,
    LookupError, MemoryError, TypeError, ValueError, struct.error,
)  # fmt: skip


def read_torch(path: Path) -> Any:
    """Read a file of `torch.save` with `weights_only=True`, mapped into memory where its format allows.

    Raises:
        CheckpointError: the file is damaged, is no such file, or holds objects other than tensors.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    try:
        # timm's trainer stores its arguments beside the weights; a Namespace is a bag of attributes and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            if path.name.endswith(SAFETENSORS_SUFFIX):
                # torch goes by the suffix, but only where it is given one.
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except _DAMAGE as error:
        raise _refusal(path, str(error)) from error


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
            "Save its state dict alone, with torch.save or as safetensors.",
        )
    return CheckpointError(
        f"{path} is truncated, damaged, or no checkpoint of PyTorch.",
        "Fetch the file again, or save it with torch.save.",
    )
