"""The page: one HTML file that holds everything, asks for nothing, and runs no code but its own few lines."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from surgeon.printable import printable_lines
from surgeon.report.comparison import ComparisonRecord
from surgeon.report.drawing import SERIES
from surgeon.report.groups import Group
from surgeon.report.panel import Missing, Panel, Picture, shown
from surgeon.report.recipe import command, compare_command, toml
from surgeon.report.records import Run

MOST_EDITS = 50_000
"""Rows of the table of edits: a browser searches so many at once."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        panels: its pictures, and what is missing among them.
    """

    title: str
    panels: tuple[Panel, ...]


def render(
    groups: Sequence[Group],
    sections: Sequence[Section],
    notes: Sequence[str] = (),
    comparisons: Sequence[ComparisonRecord] = (),
) -> str:
    """Return the page as HTML.

    Args:
        groups: the runs.
        sections: the parts, in order.
        notes: what a reader of the page should know.
        comparisons: whose recipes are shown in place of those of their runs.
    """
    # Everything is escaped and made printable but the package's own files and the pictures, in which all names are so.
    environment = Environment(
        loader=PackageLoader("surgeon.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_printable,
    )  # fmt: skip
    environment.filters["cell"] = shown
    runs = [run for group in groups for run in group.runs]
    edits = [(run, edit) for run in runs for edit in run.edits]
    script = _file("page.js")
    panels = [panel for section in sections for panel in section.panels]
    missing = [panel for panel in panels if isinstance(panel, Missing)]
    if len(edits) > MOST_EDITS:
        reason = f"The page shows the first {MOST_EDITS:,} of {len(edits):,} edits."
        missing.append(Missing("The other edits", reason, "All of them are in the records."))
    return environment.get_template("page.html").render(
        title=title_of(groups),
        runs=[_facts(run, group.label) for group in groups for run in group.runs],
        sections=[
            (section.title, [_figure(panel) for panel in section.panels if isinstance(panel, Picture)])
            for section in sections
        ],
        missing=missing,
        notes=notes,
        edits=edits[:MOST_EDITS],
        several=len(runs) > 1,
        names=[group.label for group in groups],
        recipes=[
            *((one.path.name, compare_command(one), toml(one.recipe)) for one in comparisons if one.recipe),
            *((run.title, command(run), toml(run.recipe)) for run in runs if run.recipe and run.name is None),
        ],
        script=script,
        style=_colours() + _file("page.css"),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=metadata.version("surgeon"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _printable(value: Any) -> Any:
    # Names of layers are a network's own, and on the page as they are. What is marked as safe is of another type.
    return printable_lines(value) if type(value) is str else value


def title_of(groups: Sequence[Group]) -> str:
    """Return what the page is about."""
    first = groups[0].runs[0]
    # Of a file of code the folder says nothing.
    network = "" if first.arch is None else f" of {PurePath(first.arch).name}"
    if len(groups) == 1:
        return f"{first.method}: {first.subject}{network}"
    *others, last = (group.label for group in groups)
    return f"{', '.join(others)} and {last}{network}"


def _figure(panel: Picture) -> dict[str, Any]:
    return {
        "key": panel.key,
        "title": panel.title,
        "caption": panel.caption,
        "svg": panel.inline,
        "table": panel.table,
    }


def _facts(run: Run, label: str) -> dict[str, Any]:
    named = {
        "method": run.method,
        "options": ", ".join(f"{name} {shown_value(value)}" for name, value in run.options.items()),
        "operated on": "" if run.is_control else run.subject,
        "network": run.arch or "",
        "checkpoint": run.checkpoint or "",
        "SHA-256": run.sha256 or "",
        "result": run.output or "",
        "images": str(run.data.get("name", "none")),
        "seed": "" if run.seed is None else str(run.seed),
        "device": run.device,
        "versions": ", ".join(f"{name} {value}" for name, value in {"surgeon": run.surgeon, **run.versions}.items()),
    }
    figures = [
        (name, ", ".join(f"{key.replace('_', ' ')} {shown_value(value)}" for key, value in numbers.items()))
        for name, numbers in run.figures.items()
        if isinstance(numbers, dict)
    ]
    return {
        "name": run.title,
        "label": label,
        "facts": {name: value for name, value in named.items() if value},
        "figures": figures,
        "notes": run.notes,
        "skipped": run.skipped,
    }


def shown_value(value: Any) -> str:
    """Return any value of a record as text."""
    if value is None:
        return "none"
    return shown(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


def _file(name: str) -> str:
    return (resources.files("surgeon.report") / "templates" / name).read_text("utf-8")


DARK_SERIES = ("#6cb6ff", "#ff9d5c", "#4fd1b3", "#f0a3d8", "#d9c65b", "#c9c9c9")
"""The same hues, light enough for a dark ground."""


def _colours() -> str:
    light = "".join(f"--series-{number}:{colour};" for number, colour in enumerate(SERIES))
    dark = "".join(f"--series-{number}:{colour};" for number, colour in enumerate(DARK_SERIES))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
