"""The options of a run as text to copy."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.operate.entrusted import entrusted_words
from surgeon.report.comparison import ComparisonRecord
from surgeon.report.records import Run


def toml(recipe: Mapping[str, Any]) -> str:
    """Return options as the TOML that `--recipe` takes.

    Args:
        recipe: text, numbers, truth values, lists of these, and tables of these, by name.
    """
    lines = [f"{_key(name)} = {_value(value)}" for name, value in recipe.items() if _is_plain(value)]
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{_key(name)}]"]
            lines += [f"{_key(key)} = {_value(one)}" for key, one in value.items() if _is_plain(one)]
    return "\n".join(lines) + "\n"


def command(run: Run) -> str:
    """Return the command line that does what a run did, by its record."""
    # Runs that stand on one page would write to one file.
    output = f"{run.path.stem}-again.safetensors"
    return _again("finetune" if run.is_control else "apply", run.path, _as_path(output), run.checkpoint, run.recipe)


def compare_command(comparison: ComparisonRecord) -> str:
    """Return the command line that compares the same again, by the record of a comparison."""
    return _again("compare", comparison.path, "again", comparison.runs[0].checkpoint, comparison.recipe)


def _again(verb: str, record: Path, output: str, checkpoint: str | None, recipe: Mapping[str, Any]) -> str:
    words = ["surgeon", verb, "--recipe", _as_path(record.name), *entrusted_words(recipe), "-o", output]
    return shlex.join(words if checkpoint is None else [*words, _as_path(checkpoint)])


def _as_path(name: str) -> str:
    """Return a path that no command line takes for an option."""
    return f"./{name}" if name.startswith("-") else name


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else _value(name)


def _value(value: Any) -> str:
    """Return a value in TOML, whose texts are written like JSON's, but for letters beyond 16 bits and DEL."""
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value if _is_plain(one))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
