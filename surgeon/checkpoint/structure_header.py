"""How a resized network differs from its architecture's, as text in a checkpoint's header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.bounded_json import BoundError, parse
from surgeon.checkpoint.display import shown
from surgeon.errors import CheckpointError, OutputError
from surgeon.structure import CrossSets, Structure

STRUCTURE_KEY = "surgeon_structure"
MARKER = "load_this_file_with_surgeon.load"
"""Name of a tensor in the files of such networks, which other loaders find surplus, and name.

Without it those would load a network with cross-attention as one with plain convolutions, and not know.
"""

VERSION = 1
LONGEST_TEXT = 2**21
"""Characters of JSON: parsed, they may take twenty times the memory."""

MOST_VALUES, DEEPEST = 2**20, 8
"""Of its JSON; a sound one has lists of channels in layers in parts of the whole."""

LARGEST = 2**31 - 1
REMEDY = "Fetch the file again, or save the network anew with surgeon.save."
RESIZED_REMEDY = (
    "Load the .safetensors file as surgeon wrote it, with surgeon.load: its header holds the sizes of the layers."
)


def to_text(structure: Structure) -> str:
    """Return a structure as JSON.

    Raises:
        OutputError: it is longer than `from_text` takes.
    """
    widths = {name: dict(sizes) for name, sizes in structure.widths.items()}
    attention = {
        name: {"written": list(sets.written), "read": list(sets.read)} for name, sets in structure.attention.items()
    }
    described = {"version": VERSION, "widths": widths, "attention": attention}
    text = json.dumps(described, separators=(",", ":"), sort_keys=True)
    if len(text) > LONGEST_TEXT:
        raise OutputError(
            f"The structure of the network takes {len(text)} characters, more than the {LONGEST_TEXT} of a header.",
            "Resize fewer layers.",
        )
    return text


def from_text(text: str, path: Path) -> Structure:
    """Return the structure that a text describes; whether a network can have it is not looked at.

    Args:
        text: JSON from an untrusted file.
        path: that file, for messages.

    Raises:
        CheckpointError: the text is too long, no JSON, of another version, or describes none.
    """
    where = f"The structure in the header of {path}"
    if len(text) > LONGEST_TEXT:
        raise CheckpointError(f"{where} has {len(text)} characters, more than {LONGEST_TEXT}.", REMEDY)
    try:
        described = parse(text, most=MOST_VALUES, deepest=DEEPEST, repeats=False, constant=float)
    except BoundError as error:
        raise CheckpointError(f"{where} is not read: {shown(error)}.", REMEDY) from error
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON: {shown(error)}.", REMEDY) from error
    _check_names(described, {"version", "widths", "attention"}, where)
    if type(described["version"]) is not int or described["version"] != VERSION:
        raise CheckpointError(
            f"{where} is of version {shown(described['version'])}, and this surgeon reads version {VERSION}.",
            "Load it with the version of surgeon that wrote it.",
        )
    return Structure(
        {name: _sizes(sizes, f"{where}: {shown(name)}") for name, sizes in _by_layer(described, "widths", where)},
        {name: _sets(sets, f"{where}: {shown(name)}") for name, sets in _by_layer(described, "attention", where)},
    )


def _check_names(value: Any, names: set[str], where: str) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise CheckpointError(f"{where} does not consist of {', '.join(sorted(names))}.", REMEDY)


def _by_layer(described: Mapping[str, Any], part: str, where: str) -> list[tuple[str, Any]]:
    if not isinstance(described[part], dict):
        raise CheckpointError(f"{where} has {part} that are not by layer.", REMEDY)
    return list(described[part].items())


def _sizes(value: Any, where: str) -> dict[str, int]:
    if not isinstance(value, dict) or not value or not all(_is_number(size, 1) for size in value.values()):
        raise CheckpointError(f"{where} has sizes that are not whole numbers of at least 1.", REMEDY)
    return value


def _sets(value: Any, where: str) -> CrossSets:
    _check_names(value, {"written", "read"}, where)
    for side in ("written", "read"):
        numbers = value[side]
        if not isinstance(numbers, list) or not all(_is_number(number, 0) for number in numbers):
            raise CheckpointError(f"{where} has {side} channels that are not whole numbers.", REMEDY)
    return CrossSets(tuple(value["written"]), tuple(value["read"]))


def _is_number(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= LARGEST
