"""Networks from `file.py:function`: a file that the user names on the command line is run, as Python runs a module."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from surgeon.checkpoint.architecture import split_file
from surgeon.checkpoint.display import listed, shown
from surgeon.errors import ArchitectureError

NUM_CLASSES = "num_classes"
# For functions that have no default of their own: ImageNet's.
ANY_CLASSES = 1000

# What running a file of Python may raise.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, SystemError, TypeError, ValueError,
)  # fmt: skip


def call_function(name: str, arguments: dict[str, Any]) -> Any:
    """Call the function of `file.py:function` with keyword arguments."""
    return _function(name)(**arguments)


def default_arguments(name: str) -> dict[str, Any]:
    """The arguments without which the function of `file.py:function` cannot be called.

    Raises:
        ArchitectureError: it requires others than num_classes.
    """
    parameters = inspect.signature(_function(name)).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in variadic}
    return {NUM_CLASSES: ANY_CLASSES} if NUM_CLASSES in required else {}


def _function(name: str) -> Callable[..., Any]:
    path, function_name = split_file(name)
    module = _run(path)
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise ArchitectureError(
            f"{path} has no function named {function_name}; it has {listed(known) or 'none'}.",
            f"Pass --arch {path}:FUNCTION.",
        )
    return function


def _run(path: Path) -> ModuleType:
    name = f"surgeon_architecture_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ArchitectureError(f"{path} is no file of Python.", "Pass --arch with a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except _FAILURES as error:
        del sys.modules[name]
        raise ArchitectureError(
            f"{path} cannot be run: {type(error).__name__}, {shown(error)}.", "Correct the file."
        ) from error
    return module
