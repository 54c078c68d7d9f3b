"""Markdown in which every text stands for itself, whoever chose it."""

import re
from collections.abc import Iterable, Sequence

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# GitHub makes links of bare addresses, too.
SPECIAL = re.compile(r"[\\`*_{}\[\]#!|~$]|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)
LEADING = re.compile(r"^([-+=](?![\w.])|\d+(?=[.)](?:\s|$)))")
FEWEST_TICKS = 3


def plain(text: object) -> str:
    """Return one line of Markdown that shows a text as it is: in a paragraph, an item of a list or a cell of a table.

    Control characters and line breaks are shown as Python writes them.
    """
    line = str(text)
    if not line.isprintable():
        line = line.encode("unicode_escape").decode("ascii")
    line = SPECIAL.sub(r"\\\g<0>", line.strip())
    line = "".join(ENTITIES.get(character, character) for character in line)
    # A number keeps its digits: only the mark behind it makes it an item of a list.
    return LEADING.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", line)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """Return a table.

    Args:
        headings: of the columns.
        rows: texts and numbers, as many as headings.
        numbers: so many of the last columns are aligned to the right.
    """
    left = len(headings) - numbers
    rule = [":--"] * left + ["--:"] * numbers
    lines = [[plain(heading) for heading in headings], rule, *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fenced(text: str, language: str = "") -> str:
    """Return a block of code, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(FEWEST_TICKS, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
