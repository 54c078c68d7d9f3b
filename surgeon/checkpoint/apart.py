"""No output takes the place of an input, nor of another output, whatever may be overwritten."""

import contextlib
import os
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path

from surgeon.checkpoint.display import shown
from surgeon.errors import OutputError

Named = tuple[str, Path]
"""What a file is to a command, in words, and where it is."""


def check_apart(outputs: Iterable[Named], inputs: Iterable[Named]) -> None:
    """Refuse to write where something is read, or twice in one place.

    Args:
        outputs: what will be written, replaced or removed.
        inputs: what is read.

    Raises:
        OutputError: two of them are the same file, under whatever names.
    """
    outputs = list(outputs)
    for (_, path), (what, other) in (*product(outputs, inputs), *combinations(outputs, 2)):
        if same_file(path, other):
            raise OutputError(
                f"The output {shown(path)} would replace an input or another output: {what}.", "Give it another name."
            )


def same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same place, or to the same file in two places."""
    # What no system takes for a path is refused where it is written.
    with contextlib.suppress(OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other) or one.samefile(other)
    return False
