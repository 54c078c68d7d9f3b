"""Recipes: files that hold options, those that come with the package, and those in the record of a run."""

import importlib
import os
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from surgeon.bounded_file import read_text
from surgeon.bounded_json import parse
from surgeon.cli.options import key_values
from surgeon.errors import OptionError

LARGEST = 2**26
"""Bytes of a record that holds a recipe."""

LARGEST_TABLE = 2**16
"""Bytes of a recipe in TOML, of which a person writes hundreds."""

MOST_VALUES, DEEPEST = 2**20, 40
"""Of the JSON in a record."""

LONGEST = 2**12
"""Characters of a value, or of a message about one."""

LARGEST_NUMBER = 2**63

NOT_OF_A_RUN = frozenset({
    "output", "overwrite", "dry_run", "save_plan", "as_json", "tensorboard", "recipe", "restart", "save_every",
    "save_exemplars", "resume_changed", "model_card", "keep_weights",
})  # fmt: skip
"""Parameters that say where results go, and not what they are."""

CONTROLS = {"finetune": "apply", "compare": "apply"}
"""Commands that fine-tune as another one does, and take its recipes without what only that does."""

NOTES, FILE = "surgeon.recipe_notes", "surgeon.recipe_file"


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

    What only the command line decides is refused when the recipe's value would be taken, before anything is done with
    it.

    Raises:
        OptionError: there is no such recipe, it cannot be read, or it names an option that neither the command has nor
            the one that it is the control of.
    """
    if path is None:
        return None
    if str(path) not in shipped():
        ctx.meta[FILE] = path
    known = {name: option for option in _options(ctx.command) for name in _names(option)}
    elsewhere, passed_over = _known_elsewhere(ctx.command), []
    defaults: dict[str, Any] = {}
    recipe = recipe_table(path)
    for key, value in recipe.items():
        name = key.replace("-", "_")
        if name not in known and name in elsewhere:
            passed_over.append(key)
            continue
        if name not in known:
            raise OptionError(
                f"The recipe {path} names the unknown option '{key[:LONGEST]}'.", f"It may name: {_listed(known)}."
            )
        given = _as_given(known[name], value)
        # Asked for where the command line does not say.
        refusal = None if str(path) in shipped() else _refusal(path, str(known[name].name), given, recipe)
        defaults[str(known[name].name)] = given if refusal is None else refusal
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    if passed_over:
        other, names = CONTROLS[str(ctx.command.name)], ", ".join(sorted(passed_over))
        ctx.meta[NOTES] = (f"The recipe {path} asks for what only `surgeon {other}` does, which is left out: {names}.",)
    return path


def _refusal(path: Path, name: str, value: Any, recipe: Mapping[str, Any]) -> Callable[[], NoReturn] | None:
    """Return what refuses an option of a recipe, or None where a file may decide on it."""
    from surgeon.operate.entrusted import REPLAYED, entrusted_words, is_entrusted

    if not is_entrusted(name, value):
        return None

    words = entrusted_words({**{key.replace("-", "_"): one for key, one in recipe.items()}, name: value})

    option = name.replace("_", "-")
    remedy = f"Give --{option} on the command line, or take it out of the recipe."
    if name in REPLAYED:
        remedy = f"If you trust it, write beside --recipe: {shlex.join(words)[:LONGEST]}"

    def refuse() -> NoReturn:
        raise OptionError(
            f"The recipe {path} asks for {option} = {str(value)[:LONGEST]}, and only the command line decides what "
            "code is run, what is fetched, where results are written and how many processes are started.",
            remedy,
        )

    return refuse


def recipe_notes(ctx: click.Context) -> tuple[str, ...]:
    """Return what a reader of the results should know about the recipe."""
    notes: tuple[str, ...] = ctx.meta.get(NOTES, ())
    return notes


def recipe_file(ctx: click.Context) -> tuple[tuple[str, Path], ...]:
    """Return the recipe's file with what it is in words, if there is one that did not come with the package."""
    return (("the recipe", ctx.meta[FILE]),) if FILE in ctx.meta else ()


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
    options = (option for option in command.params if isinstance(option, click.Option))
    return (option for option in options if option.name and option.expose_value)


def _names(option: click.Option) -> list[str]:
    """What a recipe may call an option, the long name first."""
    return sorted((text.lstrip("-").replace("-", "_") for text in option.opts), key=len, reverse=True)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(name.replace("_", "-") for name in names))


def _as_given(option: click.Option, value: Any) -> Any:
    """A value of a recipe as the command line would give it: text, of which click knows what it means."""
    if option.is_flag and isinstance(value, bool):
        return value
    if isinstance(value, dict):
        value = [f"{setting}={text}" for setting, text in value.items()]
    texts = [str(one) for one in value] if isinstance(value, list) else [str(value)]
    return texts if option.multiple else ",".join(texts)


def recipe_table(path: Path) -> Mapping[str, Any]:
    """Return the options of a TOML file, of a record in JSON, or of a recipe of the package, as they stand there.

    Returns:
        Text, numbers, truth values, and lists and tables of these, by the options' names.

    Raises:
        OptionError: there is no such recipe, it cannot be read, or a value is none that an option can have.
    """
    text = _text(path)
    try:
        # No TOML begins with a brace, and every record does.
        is_json = text.lstrip().startswith("{")
        values = parse(text, most=MOST_VALUES, deepest=DEEPEST, constant=float) if is_json else _toml(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)[:LONGEST]) from error
    if "surgeon" in values and "recipe" in values:
        values = values["recipe"]
        if not isinstance(values, dict) or not values:
            raise OptionError(
                f"The record {path} holds no recipe.", "Give the record of a run that the command line started."
            )
    for name, value in values.items():
        parts = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [value]
        if not all(map(_is_plain_value, parts)):
            raise OptionError(
                f"The recipe {path} gives the option '{name[:LONGEST]}' a value that no command line can.",
                "Give text, a number, true, false, or a list of these.",
            )
    return values


def _toml(text: str) -> dict[str, Any]:
    if len(text) > LARGEST_TABLE:
        raise ValueError(f"it is longer than {LARGEST_TABLE} characters")
    return tomllib.loads(text)


def _is_plain_value(value: Any) -> bool:
    """Whether a value can be said in a word of a command line, which ends at a zero byte."""
    if isinstance(value, str):
        try:
            return len(value) <= LONGEST and b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST_NUMBER)


def _text(path: Path) -> str:
    names = shipped()
    if str(path) in names:
        return (resources.files("surgeon") / "recipes" / f"{path}.toml").read_text("utf-8")
    if not path.exists():
        raise OptionError(f"There is no recipe {path}.", f"Give the path of a file, or one of: {', '.join(names)}.")
    try:
        return read_text(path, LARGEST)
    except (OSError, ValueError) as error:
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
