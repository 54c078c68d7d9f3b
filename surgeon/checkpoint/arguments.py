"""What a checkpoint may say about how its network was built: plain JSON, and nothing that fetches or reads."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from surgeon.bounded_file import read_text
from surgeon.bounded_json import BoundError, parse
from surgeon.checkpoint.display import shown
from surgeon.errors import ArchitectureError

OVERLAY = "pretrained_cfg_overlay"
PREPROCESSING: dict[str, type] = {
    "input_size": list, "mean": list, "std": list, "interpolation": str, "crop_pct": float, "crop_mode": str,
}  # fmt: skip
"""What may be set of it, and of what kind it is; lists are of numbers."""

REFUSED = frozenset({
    "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_model_args", "progress", "weights",
    "weights_backbone",
})  # fmt: skip

LONGEST_TEXT = 2**20
LONGEST_WORD = 2**16
MOST_VALUES, DEEPEST = 20_000, 12
LARGEST, MOST_CLASSES = 2**14, 2**16
"""Numbers beyond it have to be the size of an axis in the file: classes may be many, and nothing else is."""

MOST_COUNTED = 2**15
"""The sum of a list of numbers that are no sizes of axes."""

CLASSES = "num_classes"

_REMEDY = "Pass --arch to say which network it is."


def checked(arguments: Any, origin: str, sizes: Collection[int]) -> dict[str, Any]:
    """The arguments themselves, if they are safe to pass to a builder.

    Args:
        arguments: decoded JSON.
        origin: where they stand, for messages.
        sizes: of all axes of the file's tensors.

    Raises:
        ArchitectureError: they are no JSON object, would make a builder fetch or read other files, or hold numbers that
            nothing in the file is as large as.
    """
    if not isinstance(arguments, dict):
        raise ArchitectureError(f"The network's arguments in {origin} are no JSON object.", _REMEDY)
    for name in arguments:
        if not name.isidentifier() or name in REFUSED:
            raise ArchitectureError(f"The network's argument {shown(name)} in {origin} is not allowed.", _REMEDY)
    for name, value in arguments.items():
        largest = MOST_CLASSES if name == CLASSES and type(value) is int else LARGEST
        if not _is_plausible(value, sizes, largest):
            raise ArchitectureError(
                f"The network's argument {shown(name)} in {origin} is {shown(repr(value))}, and no "
                "tensor of the file is of such a size.",
                _REMEDY,
            )
    overlay = arguments.get(OVERLAY, {})
    if not isinstance(overlay, dict) or not set(overlay) <= set(PREPROCESSING):
        raise ArchitectureError(f"The argument {OVERLAY} in {origin} sets more than the preprocessing.", _REMEDY)
    for name, value in overlay.items():
        if not _is_preprocessing(value, PREPROCESSING[name]):
            raise ArchitectureError(f"The preprocessing's {name} in {origin} is {shown(repr(value))}.", _REMEDY)
    return arguments


def _is_plausible(value: Any, sizes: Collection[int], largest: int) -> bool:
    if isinstance(value, dict):
        return all(_is_plausible(one, sizes, largest) for one in value.values())
    if isinstance(value, list):
        # Of numbers of layers, it is the sum that is built.
        counts = sum(abs(one) for one in value if type(one) is int and one not in sizes)
        return counts <= MOST_COUNTED and all(_is_plausible(one, sizes, largest) for one in value)
    if isinstance(value, (int, float)):
        return abs(value) <= largest or (type(value) is int and value in sizes)
    return not isinstance(value, str) or len(value) <= LONGEST_WORD


def _is_preprocessing(value: Any, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(type(number) in (int, float) for number in value)
    return type(value) in (int, float) if kind is float else isinstance(value, kind)


def from_text(text: str, origin: str, sizes: Collection[int]) -> dict[str, Any]:
    """The arguments written as JSON text."""
    return checked(_decoded(text, origin), origin, sizes)


def from_config_file(path: Path, sizes: Collection[int]) -> tuple[str, dict[str, Any]] | None:
    """The architecture and its arguments in a config.json of timm's layout; None where it names no architecture."""
    try:
        text = read_text(path, LONGEST_TEXT)
    except BoundError as error:
        raise ArchitectureError(f"The network's description in {path} is not read: {error}.", _REMEDY) from error
    except (OSError, ValueError) as error:
        raise ArchitectureError(f"{path} cannot be read.", _REMEDY) from error
    config = _decoded(text, str(path))
    if not isinstance(config, dict):
        raise ArchitectureError(f"{path} is no JSON object.", _REMEDY)
    if "architecture" not in config:
        return None
    return _text(config["architecture"], path), checked(_arguments(config, path, sizes), str(path), sizes)


def _arguments(config: dict[str, Any], path: Path, sizes: Collection[int]) -> dict[str, Any]:
    arguments = dict(checked(config.get("model_args") or {}, str(path), sizes))
    if config.get(CLASSES) is not None:
        arguments[CLASSES] = config[CLASSES]
    # Older files keep the preprocessing at the top instead of under pretrained_cfg.
    preprocessing = config.get("pretrained_cfg", config)
    if isinstance(preprocessing, dict):
        overlay = {name: preprocessing[name] for name in PREPROCESSING if preprocessing.get(name) is not None}
        if overlay:
            arguments[OVERLAY] = overlay
    return arguments


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise ArchitectureError(f"The architecture in {path} is no text.", _REMEDY)
    return value


def _decoded(text: str, origin: str) -> Any:
    if len(text) > LONGEST_TEXT:
        raise ArchitectureError(f"The network's description in {origin} is longer than {LONGEST_TEXT}.", _REMEDY)
    try:
        return parse(text, most=MOST_VALUES, deepest=DEEPEST)
    except BoundError as error:
        raise ArchitectureError(f"The network's description in {origin} is not read: {error}.", _REMEDY) from error
    except ValueError as error:
        raise ArchitectureError(f"The network's description in {origin} is not JSON.", _REMEDY) from error
