"""A terminal that shows every text as it stands: names from files neither command it nor are taken for markup."""

from typing import Any

from rich.console import Console
from rich.text import Text

from surgeon.printable import printable_lines


class Screen(Console):
    """A console of rich without its markup and its pictures in colons, and without control characters.

    Args:
        options: those of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown of a text: of a line, a cell, a heading or a title, which all pass through here."""
        return super().render_str(printable_lines(text), **{**options, "markup": False, "emoji": False})
