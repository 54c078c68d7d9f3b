"""What a checkpoint may say about how its network was built: plain JSON, and nothing that fetches or reads."""

import json
from pathlib import Path
from typing import Any

from surgeon.checkpoint.display import shown
from surgeon.errors import ArchitectureError

OVERLAY = "pretrained_cfg_overlay"
PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
REFUSED = frozenset({
    "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_model_args", "progress", "weights",
    "weights_backbone",
})  # fmt: skip

_REMEDY = "Pass --arch to say which network it is."


def checked(arguments: Any, origin: str) -> dict[str, Any]:
    """The arguments themselves, if they are safe to pass to a builder.

    Args:
        arguments: decoded JSON.
        origin: where they stand, for messages.

    Raises:
        ArchitectureError: they are no JSON object, or would make a builder fetch or read other files.
    """
    if not isinstance(arguments, dict):
        raise ArchitectureError(f"The network's arguments in {origin} are no JSON object.", _REMEDY)
    for name in arguments:
        if not name.isidentifier() or name in REFUSED:
            raise ArchitectureError(f"The network's argument {shown(name)} in {origin} is not allowed.", _REMEDY)
    overlay = arguments.get(OVERLAY, {})
    if not isinstance(overlay, dict) or not set(overlay) <= set(PREPROCESSING):
        raise ArchitectureError(f"The argument {OVERLAY} in {origin} sets more than the preprocessing.", _REMEDY)
    return arguments


def from_text(text: str, origin: str) -> dict[str, Any]:
    """The arguments written as JSON text."""
    return checked(_decoded(text, origin), origin)


def from_config_file(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The architecture and its arguments in a config.json of timm's layout; None where it names no architecture."""
    try:
        config = _decoded(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ArchitectureError(f"{path} cannot be read.", _REMEDY) from error
    if not isinstance(config, dict):
        raise ArchitectureError(f"{path} is no JSON object.", _REMEDY)
    if "architecture" not in config:
        return None
    return _text(config["architecture"], path), checked(_arguments(config, path), str(path))


def _arguments(config: dict[str, Any], path: Path) -> dict[str, Any]:
    arguments = dict(checked(config.get("model_args") or {}, str(path)))
    if config.get("num_classes") is not None:
        arguments["num_classes"] = config["num_classes"]
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
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(f"The network's description in {origin} is not JSON.", _REMEDY) from error
