"""Method options by name and text, typed and checked against the method's config dataclass."""

import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from surgeon.errors import OptionError
from surgeon.methods.base import Method

TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def make_config(method: Method, values: Mapping[str, Any]) -> Any:
    """Return the method's config with some options set.

    Args:
        method: the method.
        values: option values by name; text is converted to the option's type.

    Raises:
        OptionError: an option is unknown, or its value is of the wrong type or out of range.
    """
    hints = get_type_hints(method.config)
    known = [option.name for option in method.options]
    converted = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise OptionError(
                f"The method {method.name} has no option '{name}'.", f"{hint}It knows: {', '.join(known)}."
            )
        converted[name] = _convert(method, name, value, hints[name])
    return method.config(**converted)


def _convert(method: Method, name: str, value: Any, hint: Any) -> Any:
    choices = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        choices = list(get_args(hint))
    for choice in choices:
        found, result = _as(choice, value)
        if found:
            return result
    raise OptionError(
        f"The option {name} of {method.name} is {value!r}.",
        f"Give {' or '.join(describe(choice) for choice in choices)}.",
    )


def _as(hint: Any, value: Any) -> tuple[bool, Any]:
    """Return whether the value (or its text) is of the type, and the value."""
    if hint is type(None):
        return value is None or (isinstance(value, str) and value.lower() == "none"), None
    if get_origin(hint) is Literal:
        return value in get_args(hint), value
    if hint is bool:
        if isinstance(value, str):
            return value.lower() in TRUTH, TRUTH.get(value.lower())
        return isinstance(value, bool), value
    if isinstance(value, bool):
        return False, None
    if hint in (int, float) and isinstance(value, (str, int, float)):
        try:
            number = hint(value)
        except (ValueError, OverflowError):
            return False, None
        return isinstance(value, str) or number == value, number
    return hint is str and isinstance(value, str), value


def describe(hint: Any) -> str:
    """Return a type in the words of an error message or a help table."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(hint, str(hint))
