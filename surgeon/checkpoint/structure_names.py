"""The layers' names in a structure: in files they are, like the tensors', without the prefixes of wrappers."""

from collections.abc import Callable

from torch import nn

from surgeon.checkpoint.state_dict import common_prefix
from surgeon.structure import Structure


def stripped(structure: Structure, model: nn.Module) -> Structure:
    """Return a structure of a network by the names of a file."""
    start = len(common_prefix(model.state_dict().keys()))
    # A wrapper may hold nothing but one layer, which is the prefix.
    return _renamed(structure, lambda name: f"{name}."[start:].removesuffix("."))


def placed(structure: Structure, model: nn.Module) -> Structure:
    """Return a file's structure by the names that the layers have in a network."""
    prefix = common_prefix(model.state_dict().keys())
    return _renamed(structure, lambda name: f"{prefix}{name}".removesuffix(".") if prefix else name)


def _renamed(structure: Structure, rename: Callable[[str], str]) -> Structure:
    return Structure(
        {rename(name): sizes for name, sizes in structure.widths.items()},
        {rename(name): sets for name, sets in structure.attention.items()},
    )
