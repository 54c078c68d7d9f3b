"""Imports point one way, and the command line starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "surgeon"

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "bounded_json": set(),
    "bounded_file": {"bounded_json"},
    "progress": set(),
    "modes": set(),
    "printable": set(),
    "sound": set(),
    "memory": {"errors"},
    "lost": {"errors"},
    "structure": set(),
    "processes": set(),
    "image_shape": set(),
    "coupling": {"errors", "image_shape", "printable"},
    "measure": {"errors", "progress", "modes", "sound", "processes", "coupling"},
    "edit": {"errors", "bounded_json", "progress", "structure", "coupling"},
    "methods": {"errors", "progress", "structure", "coupling", "measure", "edit"},
    # Fine-tuning stands above the methods, but knows none of them: any model can be tuned.
    "tuning": {"errors", "progress", "modes", "sound", "memory", "processes", "structure"},
    # Synthesized images are kept in files that are read and written like checkpoints.
    "data": {"errors", "bounded_json", "bounded_file", "printable", "checkpoint"},
    "checkpoint": {"errors", "bounded_json", "bounded_file", "structure", "image_shape", "sound"},
    "exemplars": {"errors", "progress", "memory", "modes", "tuning", "data", "checkpoint"},
    "operate": {
        "errors",
        "bounded_json",
        "bounded_file",
        "lost",
        "progress",
        "modes",
        "sound",
        "printable",
        "memory",
        "processes",
        "structure",
        "coupling",
        "measure",
        "edit",
        "methods",
        "tuning",
        "data",
        "checkpoint",
        "exemplars",
    },
}
BELOW["report"] = BELOW["operate"] | {"operate"}
BELOW["cli"] = BELOW["report"] | {"report"}
EVERYTHING = set(BELOW)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the dotted names of everything that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.update({node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names})
    return names


def imported_at_once(path: Path) -> set[str]:
    """Return what a file imports when it is imported itself, outside of functions and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms <= EVERYTHING
    assert {"errors", "coupling", "edit", "methods", "cli"} <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    used = {name.split(".")[1] for name in imported(path) if name.startswith("surgeon.")}
    assert used - {room, "__version__"} <= BELOW[room]


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=lambda path: path.parent.name)
def test_a_folders_init_only_hands_names_on(path: Path) -> None:
    # The package itself hands its names on lazily, and `methods` is at once a folder and the public function.
    if path.parent == PACKAGE or path.parent.name == "methods":
        return
    kinds = {type(node).__name__ for node in ast.parse(path.read_text(encoding="utf-8")).body}
    assert kinds <= {"Expr", "Import", "ImportFrom", "Assign", "AnnAssign"}


HEAVY = ("torch", "timm", "torchvision", "accelerate", "matplotlib", "sklearn", "scipy", "datasets")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("apply", "finetune", "compare", "diff", "convert", "report")),
    ],
)
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from surgeon.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None), end.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "heavy: []"


def test_importing_the_package_imports_no_heavy_library() -> None:
    assert not imported_at_once(PACKAGE / "__init__.py") & set(HEAVY)
    assert imported_at_once(PACKAGE / "errors.py") <= {"__future__"}
