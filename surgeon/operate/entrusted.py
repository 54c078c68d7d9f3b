"""What a recipe may ask for, and only the command line decides: code that is run, data that is fetched, files written.

A recipe may come from anybody, such as one in a stranger's record.
"""

from collections.abc import Callable, Mapping
from typing import Any

from surgeon.checkpoint.architecture import names_file
from surgeon.data.named import prefix


def _names_code(value: Any) -> bool:
    return names_file(str(value))


def _names_library(value: Any) -> bool:
    # Each library reads or fetches in ways of its own: streams may be commands, and files of theirs may be pickles.
    return bool(prefix(str(value)))


def _is_many(value: Any) -> bool:
    return not str(value).isdecimal() or int(value) > MOST_WORKERS


MOST_WORKERS = 64
"""Processes that read images, each of which takes half a gigabyte."""

ENTRUSTED: Mapping[str, Callable[[Any], bool]] = {
    "arch": _names_code, "teacher_arch": _names_code, "data": _names_library, "data_root": bool, "download": bool,
    "output": bool, "overwrite": bool, "restart": bool, "model_card": bool, "save_plan": bool, "save_exemplars": bool,
    "tensorboard": bool, "workers": _is_many,
}  # fmt: skip
"""By the options' names, which of their values these are."""


REPLAYED = ("arch", "teacher_arch", "data", "data_root", "download")
"""Those that a record has. How to write where a file says so, or to replace what is there, nobody is told."""


def is_entrusted(name: str, value: Any) -> bool:
    """Tell whether only the command line may give an option this value.

    Args:
        name: of the option, with underscores or hyphens.
        value: as a recipe has it.
    """
    return ENTRUSTED.get(name.replace("-", "_"), lambda value: False)(value)


def entrusted_words(recipe: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that have to stand beside `--recipe` to do a run again."""
    words = []
    for name, value in recipe.items():
        if name.replace("-", "_") in REPLAYED and is_entrusted(name, value):
            option = f"--{name.replace('_', '-')}"
            # What begins like an option is none behind an equals sign.
            plain = not str(value).startswith("-")
            words += [option] if value is True else [option, str(value)] if plain else [f"{option}={value}"]
    return words
