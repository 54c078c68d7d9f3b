"""What is built from the repository: the dependencies that are declared, and the files that a source archive has."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_that_is_imported_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for names in project["optional-dependencies"].values() for one in names]
    declared = {re.split(r"[<>=\[]", one)[0].lower() for one in (*project["dependencies"], *extras)}
    known = packages_distributions()
    imported = {name for path in (ROOT / "surgeon").rglob("*.py") for name in imports_of(path)}
    others = imported - sys.stdlib_module_names - {"surgeon"}
    # What is not installed here is called what it is imported as.
    missing = {name for name in others if declared.isdisjoint(one.lower() for one in known.get(name, [name]))}
    assert missing == set()


def imports_of(path: Path) -> set[str]:
    """Return the names of the packages that a file imports, within functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module is not None]
    return {name.partition(".")[0] for name in names}


def test_a_source_archive_has_every_page_of_the_repository() -> None:
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    included = {name for line in lines if line[0] == "include" for name in line[1:]}
    # setuptools adds the file that pyproject.toml calls the readme by itself.
    assert {path.name for path in ROOT.glob("*.md")} <= included | {"README.md"}
