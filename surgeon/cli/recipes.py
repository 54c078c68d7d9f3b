"""Recipes: files that hold options, those that come with the package, and those in the record of a run."""

import importlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from surgeon.cli.options import key_values
from surgeon.errors import OptionError

LARGEST = 2**26
"""Bytes of a recipe, or of the record that holds one."""

NOT_OF_A_RUN = frozenset({
    "output", "overwrite", "dry_run", "save_plan", "as_json", "tensorboard", "recipe", "restart", "save_every",
    "save_exemplars", "resume_changed", "model_card", "keep_weights",
})  # fmt: skip
"""Parameters that say where results go, and not what they are."""

CONTROLS = {"finetune": "apply", "compare": "apply"}
"""Commands that fine-tune as another one does, and take its recipes without what only that does."""

NOTES = "surgeon.recipe_notes"


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package: the papers' settings."""
    files = (resources.files("surgeon") / "recipes").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def recipe_of(ctx: click.Context, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a command was given, by the names of its options: a recipe that does the same again.

    Options that were left out stand in it with their defaults, unless that is to leave something out.

    Args:
        ctx: of the command.
        changed: parameters that the command itself has given other values, by name.
    """
    recipe: dict[str, Any] = {}
    values = {**ctx.params, **changed}
    for option in _options(ctx.command):
        value = values.get(str(option.name))
        if option.name in NOT_OF_A_RUN or value is None or value is False or value == ():
            continue
        recipe[_names(option)[0].replace("_", "-")] = _plain(value)
    if "set" in recipe:
        recipe["set"] = dict(text.split("=", 1) for text in recipe["set"])
    return recipe


def _plain(value: Any) -> Any:
    """A value as a type of JSON and TOML."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def read_recipe(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Take a recipe's options as defaults; what stands on the command line wins.

    Raises:
        OptionError: there is no such recipe, it cannot be read, or it names an option that neither the command has nor
            the one that it is the control of.
    """
    if path is None:
        return None
    known = {name: option for option in _options(ctx.command) for name in _names(option)}
    elsewhere, passed_over = _known_elsewhere(ctx.command), []
    defaults: dict[str, Any] = {}
    for key, value in recipe_table(path).items():
        name = key.replace("-", "_")
        if name not in known and name in elsewhere:
            passed_over.append(key)
            continue
        if name not in known:
            raise OptionError(f"The recipe {path} names the unknown option '{key}'.", f"It may name: {_listed(known)}.")
        defaults[str(known[name].name)] = _as_given(known[name], value)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    if passed_over:
        other, names = CONTROLS[str(ctx.command.name)], ", ".join(sorted(passed_over))
        ctx.meta[NOTES] = (f"The recipe {path} asks for what only `surgeon {other}` does, which is left out: {names}.",)
    return path


def recipe_notes(ctx: click.Context) -> tuple[str, ...]:
    """Return what a reader of the results should know about the recipe."""
    notes: tuple[str, ...] = ctx.meta.get(NOTES, ())
    return notes


def method_settings(
    ctx: click.Context, settings: tuple[str, ...], short: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return a method's options from a recipe and from the command line, where each one that stands there wins.

    Args:
        ctx: of the command; its recipe was read.
        settings: `--set` as click has read it: the command line's, or, without any, the recipe's.
        short: the options that stand for some of them, by the parameters' names, None where they were not given.

    Returns:
        The method's options by name, and the parameters that they change for the run's own recipe.
    """
    own = key_values(settings if _is_given(ctx, "settings") else ())
    all_set = {**key_values(tuple((ctx.default_map or {}).get("settings", ()))), **own}
    overruled = {name: None for name in short if name in own and not _is_given(ctx, name)}
    options = {**all_set, **{name: str(value) for name, value in short.items() if value is not None}}
    options.update({name: own[name] for name in overruled})
    return options, {**overruled, "settings": tuple(f"{name}={value}" for name, value in all_set.items())}


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _known_elsewhere(command: click.Command) -> set[str]:
    """Return what a recipe may call the options of the command that this one is the control of."""
    other = CONTROLS.get(str(command.name))
    if other is None:
        return set()
    module = importlib.import_module(f"surgeon.cli.{other}")
    return {name for option in _options(module.command) for name in _names(option)}


def _options(command: click.Command) -> Iterable[click.Option]:
    return (option for option in command.params if isinstance(option, click.Option) and option.name)


def _names(option: click.Option) -> list[str]:
    """What a recipe may call an option, the long name first."""
    return sorted((text.lstrip("-").replace("-", "_") for text in option.opts), key=len, reverse=True)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.replace("_", "-") for name in names))


def _as_given(option: click.Option, value: Any) -> Any:
    """A value as the command line would give it."""
    if isinstance(value, dict):
        value = [f"{setting}={text}" for setting, text in value.items()]
    if option.multiple and not isinstance(value, list):
        return [value]
    if isinstance(value, list) and not option.multiple:
        return ",".join(map(str, value))
    return value


def recipe_table(path: Path) -> Mapping[str, Any]:
    """Return the options of a TOML file, of a record in JSON, or of a recipe of the package, as they stand there.

    Raises:
        OptionError: there is no such recipe, or it cannot be read.
    """
    text = _text(path)
    try:
        # No TOML begins with a brace, and every record does.
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if "surgeon" not in values or "recipe" not in values:
        return values
    recipe = values["recipe"]
    if not isinstance(recipe, dict) or not recipe:
        raise OptionError(
            f"The record {path} holds no recipe.", "Give the record of a run that the command line started."
        )
    return recipe


def _text(path: Path) -> str:
    names = shipped()
    if str(path) in names:
        return (resources.files("surgeon") / "recipes" / f"{path}.toml").read_text("utf-8")
    if not path.exists():
        raise OptionError(f"There is no recipe {path}.", f"Give the path of a file, or one of: {', '.join(names)}.")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise _unreadable(path, f"it is larger than {LARGEST} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"The recipe {path} cannot be read: {reason}.", "Give a TOML file of option = value, or a record of a run."
    )


recipe_option = click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    callback=read_recipe,
    is_eager=True,
    expose_value=False,
    metavar="NAME|FILE",
    help="Take options from a paper's recipe (`surgeon methods` lists them), a TOML file, or the record of a run.",
)
