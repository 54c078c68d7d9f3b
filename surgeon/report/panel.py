"""What a page is made of: pictures with their numbers beside them, and what could not be shown with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Numbers in rows.

    Attributes:
        columns: the headings.
        rows: the cells, as many in each row as there are headings; None where there is nothing.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("A row has another number of cells than there are headings.")


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        key: its name in links and of its file: small letters, digits and dashes.
        title: what it shows, in a few words.
        caption: how it is to be read, and what it shows, in sentences: the text alternative.
        svg: the picture alone in its file, one `<svg>` element with fixed colours.
        inline: the same for the page, whose colours follow the page's.
        table: the numbers that it shows.
    """

    key: str
    title: str
    caption: str
    svg: str
    inline: str
    table: Table


@dataclass(frozen=True)
class Missing:
    """Something that could not be shown.

    Attributes:
        title: what it is.
        reason: why not, one sentence.
        remedy: what to give, one sentence.
    """

    title: str
    reason: str
    remedy: str


Panel = Picture | Missing


def shown(cell: Cell) -> str:
    """Return a cell as text: numbers to four digits, a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def brief(text: str, most: int = 32) -> str:
    """Return a name for a chart, cut in the middle where it is longer."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 + most // 2 - most :]}"


def cut(most: int, total: int, what: str) -> str:
    """Return a sentence for a caption that says how many of something are shown; nothing where all are."""
    return f" Of {total:,} {what} {most:,} are shown." if total > most else ""


def in_words(numbers: Sequence[float | None], unit: str = "") -> str:
    """Return how numbers begin and end: `from 12.5 % to 71 %`."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "without figures"
    return f"from {known[0]:.4g}{unit} to {known[-1]:.4g}{unit}"
