"""Which weights a user's patterns keep as they are."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from surgeon.errors import LayerError

HINTS = 5
"""Names that an error gives."""

NEAR = 0.4
"""Least likeness of a name that is worth a hint."""


def frozen_names(model: nn.Module, patterns: Iterable[str]) -> frozenset[str]:
    """Return the names of all parameters and buffers that the patterns freeze.

    Args:
        model: the network.
        patterns: names and globs of modules, whose tensors are all frozen, and of single parameters; `*` matches dots
            too. No pattern freezes nothing.

    Raises:
        LayerError: a pattern matches nothing; it names the nearest.
    """
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    tensors = [*parameters, *(name for name, _ in model.named_buffers(remove_duplicate=False))]
    frozen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in (*modules, *parameters) if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            near = get_close_matches(pattern, [*modules, *parameters], HINTS, NEAR) or modules[:HINTS]
            raise LayerError(
                f"The pattern '{pattern}' of what to freeze matches no module and no parameter.",
                f"The nearest names are: {', '.join(near)}.",
            )
        whole = set(matched)
        frozen.update(name for name in tensors if not whole.isdisjoint(_with_its_modules(name)))
    return frozenset(frozen)


def untrained_names(model: nn.Module, patterns: Iterable[str]) -> frozenset[str]:
    """Return every name of every parameter that fine-tuning leaves as it is.

    Args:
        model: the network; parameters without `requires_grad` are not trained.
        patterns: what is frozen beside them, see `frozen_names`; a parameter that several modules share is frozen
            where one of its names is.

    Raises:
        LayerError: a pattern matches nothing.
    """
    frozen = frozen_names(model, patterns)
    parameters = list(model.named_parameters(remove_duplicate=False))
    still = {parameter for name, parameter in parameters if name in frozen or not parameter.requires_grad}
    return frozenset(name for name, parameter in parameters if parameter in still)


def _with_its_modules(name: str) -> Iterable[str]:
    """A tensor's name, and those of the modules around it."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
