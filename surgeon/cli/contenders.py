"""The methods that a comparison is asked for, each with its own options, layers and partner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.cli.apply import METHOD_OPTIONS
from surgeon.cli.options import key_values
from surgeon.cli.recipes import recipe_table, shipped
from surgeon.errors import OptionError

SHORT = (*METHOD_OPTIONS, "every")
"""What a recipe may say of a method outside of its table `set`."""


@dataclass(frozen=True)
class Contender:
    """A method in a comparison.

    Attributes:
        name: the method's, or the recipe's that it is from.
        method: name of the method.
        options: its options, as text or values.
        layers: its own layers; empty for those of the comparison.
        left_out: what its recipe asks for beside the method, by the options' names.
    """

    name: str
    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def contenders(names: str, settings: tuple[str, ...]) -> tuple[Contender, ...]:
    """Return the methods of a comparison.

    Args:
        names: of methods and recipes, with commas between them.
        settings: `METHOD.option=value`, or `option=value` where one method alone knows the option.

    Raises:
        OptionError: there is no such method or recipe, two have one name, or a setting belongs to none or to several.
    """
    from surgeon.operate.comparison import RESERVED

    named = [_contender(text.strip()) for text in names.split(",") if text.strip()]
    for number, one in enumerate(named):
        if one.name in RESERVED:
            raise OptionError(
                f"The recipe {one.name} has the name of a row that every comparison has.", "Rename its file."
            )
        others = [other.name for other in named[:number] if _key(other.name) == _key(one.name)]
        if one.name in others:
            raise OptionError(
                f"The method {one.name} is named twice.", "Give a second one of its kind as a recipe file of its own."
            )
        if others:
            raise OptionError(
                f"The names {others[0]} and {one.name} are too much alike for --set.", "Rename a recipe's file."
            )
    return _with_settings(named, key_values(settings))


def _key(name: str) -> str:
    """Return a name as `--set` has it, which makes no difference between hyphens and underscores."""
    return name.replace("-", "_")


def _contender(text: str) -> Contender:
    from surgeon.methods import METHODS
    from surgeon.operate.inputs import find_method

    if text in METHODS:
        return Contender(text, text)
    if text not in shipped() and not Path(text).is_file():
        try:
            find_method(text)
        except OptionError as error:
            raise OptionError(error.problem, f"{error.remedy} Or name a recipe of one.") from None
    table = {name.replace("-", "_"): value for name, value in recipe_table(Path(text)).items()}
    if "method" not in table:
        raise OptionError(f"The recipe {text} names no method.", 'Add one: method = "sofm", say.')
    method = str(table.pop("method"))
    find_method(method)
    given = table.pop("set", {})
    if not isinstance(given, dict):
        raise OptionError(
            f"The recipe {text} has a 'set' that is no table.", "Write, for example, set = {ratio = 0.5}."
        )
    options = {**given, **{name: table.pop(name) for name in SHORT if name in table}}
    layers = table.pop("layers", ())
    layers = tuple(map(str, layers)) if isinstance(layers, (list, tuple)) else (str(layers),)
    return Contender(Path(text).stem, method, options, layers, tuple(name.replace("_", "-") for name in table))


def _with_settings(named: Sequence[Contender], settings: Mapping[str, str]) -> tuple[Contender, ...]:
    from surgeon.operate.inputs import find_method

    options = {one.name: dict(one.options) for one in named}
    by_text = {_key(one.name): one for one in named}
    for key, value in settings.items():
        # A recipe's name may hold a dot itself.
        owner, dot, option = key.rpartition(".")
        if dot:
            if owner not in by_text:
                raise OptionError(
                    f"'--set {key}={value}' is for {owner}, which is not compared.",
                    f"Write, with one of {', '.join(options)}, METHOD.option=value.",
                )
            options[by_text[owner].name][option] = value
            continue
        knowing = [one.name for one in named if key in [known.name for known in find_method(one.method).options]]
        if len(knowing) != 1:
            who = "none of the methods" if not knowing else f"{' and '.join(knowing)} alike"
            raise OptionError(
                f"'--set {key}={value}' is an option of {who}.", f"Write METHOD.{key}=value for one of: "
                f"{', '.join(knowing or options)}.",
            )  # fmt: skip
        options[knowing[0]][key] = value
    return tuple(dataclasses.replace(one, options=options[one.name]) for one in named)
