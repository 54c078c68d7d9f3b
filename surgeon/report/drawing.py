"""Charts as SVG, once with fixed colours for a file and once with those of the page around it."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from surgeon.report.panel import Picture, Table

INK, FAINT = "#1c2128", "#c8ccd1"
SERIES = ("#0067a5", "#b84a00", "#00735c", "#9b3f7f", "#6b5b00", "#4d4d4d")
"""Colours that stay apart for the colour-blind, each with a contrast above 4.5 on white."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)), (0, (2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 7.0
"""Inches, of 72 units of the picture."""

VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", **{c: f"var(--series-{n})" for n, c in enumerate(SERIES)}}
PLAIN = {"#ffffff": "var(--card)", "#f6f6f4": "var(--ground)", "#111": "var(--ink)", "#888": "var(--faint)"}
"""Colours of the coupling graph's picture that are those of a page."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "surgeon",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.markersize": 4,
}


def line_width(number: int) -> float:
    """Return the width of a line, thinner than those before it: lines that coincide all stay visible."""
    return max(3.0 - 0.8 * number, 1.0)


@contextmanager
def sheet(height: float) -> Iterator[Figure]:
    """Give an empty figure of the page's width to draw on, in the page's style.

    Args:
        height: inches.
    """
    # Names may be written in letters that the font measures without having them; the page's own font shows them.
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def picture(figure: Figure, key: str, title: str, caption: str, table: Table) -> Picture:
    """Return a figure that was drawn within `sheet` as a picture of the page.

    Args:
        figure: the figure.
        key: see `Picture`, like the others.
    """
    buffer = io.StringIO()
    nothing: dict[str, Any] = {"Creator": None, "Date": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :].rstrip()
    alone = re.sub(r"<svg\b", '<svg style="background: #fff"', svg, count=1)
    return Picture(key, title, caption, _named(alone, title), _named(themed(svg, key), title), table)


def themed(svg: str, key: str) -> str:
    """Return an SVG for the inside of a page: colours by the page's variables, and identifiers of its own.

    Args:
        svg: the picture; texts in it have `<` and `>` escaped.
        key: what its identifiers begin with.
    """
    used = set(re.findall(r"#([\w-]+)\"|url\(#([\w-]+)\)", svg))
    names = {name for pair in used for name in pair if name}

    def within(tag: re.Match[str]) -> str:
        text = tag.group()
        text = re.sub(r' id="([\w.-]+)"', lambda found: _own_id(found.group(1), names, key), text)
        text = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#{key}-\2", text)
        for colour, variable in VARIABLES.items():
            text = text.replace(f": {colour}", f": {variable}")
        for colour, variable in PLAIN.items():
            text = text.replace(f'="{colour}"', f'="{variable}"')
        return text

    return re.sub(r"<[a-zA-Z][^<>]*>", within, svg)


def _own_id(name: str, names: set[str], key: str) -> str:
    return f' id="{key}-{name}"' if name in names else ""


def _named(svg: str, title: str) -> str:
    """Return the picture with its name for who does not see it."""
    head, rest = svg.split(">", 1)
    return f'{head} role="img" aria-label="{escape(title)}">{rest}'
