"""The JSON of a record that anybody may have written: every value is checked, and every text is made printable."""

from dataclasses import replace
from pathlib import Path
from typing import Self

from surgeon.edit.untrusted import LARGEST, Node
from surgeon.errors import DataError
from surgeon.printable import printable as escaped

REMEDY = "Give the record that a run of surgeon wrote, as it was written."
LONGEST_TEXT = 4000
"""Characters of a sentence that are shown."""


class Entry(Node):
    """A value of a record; what is wrong with it is the record's fault."""

    def refusal(self, expected: str) -> DataError:
        """Return the error that says what should stand here."""
        return DataError(f"{self.place} is not {expected}.", REMEDY)

    def text(self) -> str:
        """Return text in one line, with the escapes of Python for what cannot be printed, at most 4,000 characters."""
        if not isinstance(self.value, str):
            raise self.refusal("text")
        return printable(self.value)

    def get(self, name: str) -> Self:
        """Return a value of an object, or null where it has none of this name."""
        if not isinstance(self.value, dict):
            raise self.refusal("an object")
        return replace(self, value=self.value.get(name), place=f"{self.place}.{name}")

    def figure(self) -> float | None:
        """Return a number, or None where there is none."""
        return self.optional(lambda node: node.number(-LARGEST, LARGEST))

    def count(self) -> int:
        """Return a whole number that is not negative."""
        return self.whole(0, LARGEST)

    def texts(self) -> tuple[str, ...]:
        """Return a list of texts; none where there is no list."""
        return () if self.value is None else tuple(entry.text() for entry in self.entries())


def printable(text: str) -> str:
    """Return text in one line that can be printed anywhere, at most 4,000 characters."""
    shown = text[: LONGEST_TEXT + 1]
    shown = escaped(shown)
    return shown if len(shown) <= LONGEST_TEXT else shown[: LONGEST_TEXT - 1] + "…"


def in_folder(path: Path) -> str:
    """Return a file's name after its folder's, in which files of one name differ."""
    return printable(f"{path.parent.name}/{path.name}" if path.parent.name else path.name)
