"""A file of results, one JSON object a line, that survives an interruption; later lines replace earlier ones."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Results:
    """Results by name.

    Attributes:
        path: the file; it need not exist yet.
    """

    path: Path

    def append(self, row: dict[str, Any]) -> None:
        """Add a result; `row["name"]` says whose it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the last result of every name; a line cut short by an interruption does not count."""
        if not self.path.exists():
            return {}
        rows = [_parsed(line) for line in self.path.read_text().splitlines()]
        return {row["name"]: row for row in rows if row is not None}


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row
