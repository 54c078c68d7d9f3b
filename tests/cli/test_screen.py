"""Whatever a name from a file says, a terminal shows it and obeys none of it."""

import io
import os
import sys
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from surgeon.cli import voice
from surgeon.cli.live import View
from surgeon.cli.main import main
from surgeon.cli.render import plan_table, print_whole, record_table, say, stage_line
from surgeon.cli.screen import Screen
from surgeon.edit.plan import Plan, Set
from surgeon.operate.record import Record, Stage
from surgeon.printable import printable, printable_lines

HOSTILE = [
    "<script>alert(1)</script>", "[bold]", "[red]x[/red]", "[/]", "[link=http://x]y[/link]", ":smile:", '"|](x)',
    "back\\[",
    "\x1b]0;owned\x07", "\x1b[2J\x1b[31m", "\x9b31m", "nul\0", "a\rb", "a\u202egnp.exe", "half\udcff",
    "a\u2028b", "a\tb",
]  # fmt: skip
ESCAPED = [r"\x1b]0;owned\x07", r"\x1b[2J\x1b[31m", r"\x9b31m", r"nul\x00", r"a\rb", r"a\u202egnp.exe", r"half\udcff"]


def shown_by(print_it: Any) -> str:
    file = io.StringIO()
    print_it(Screen(file=file, width=200, force_terminal=True, color_system=None))
    text = file.getvalue()
    text.encode()
    return text


def visible(text: str) -> str:
    """Return what is left without the frames and titles of rich itself."""
    return text.replace("\x1b[1m", "").replace("\x1b[3m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_lines_and_every_part_of_a_table_show_a_name_as_it_is(name: str) -> None:
    table = Table(name, title=f"{name} title", caption=f"{name} caption", show_footer=True)
    table.add_column(f"{name} heading", f"{name} footer")
    table.add_row(f"{name} cell", "x")
    prints = (
        lambda screen: screen.print(name),
        lambda screen: screen.print(table),
        lambda screen: print_whole(table, screen),
    )
    for print_it in prints:
        text = shown_by(print_it)
        assert printable(name) in text
        assert visible(text) == printable_lines(visible(text))
    text = shown_by(lambda screen: screen.print(table))
    for part in ("title", "caption", "heading", "footer", "cell"):
        assert f"{printable(name)} {part}" in text


def test_what_cannot_be_printed_is_written_as_python_writes_it() -> None:
    unprintable = [name for name in HOSTILE if not name.isprintable()]
    assert [printable(name) for name in unprintable[:7]] == ESCAPED
    assert printable("Größe — 5 × 7 Ω 漢字") == "Größe — 5 × 7 Ω 漢字"
    assert printable_lines("a\nb\x07\n") == "a\nb\\x07\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_records_and_plans_command_no_terminal(capsys: pytest.CaptureFixture[str], name: str) -> None:
    bare = {"top1": None, "top5": None, "loss": None, "drift": None, "agreement": None, "seconds": 0.1}
    stages = tuple(Stage("operated", **bare, target=name, metrics={name: 1.0}) for _ in range(2))
    record = Record(name, {}, 0, (name, name), (), {name: {name: name}}, (name,), stages, ())
    record_table(record, to_stderr=False)
    stage_line(stages[0])
    say(name)
    edit = Set(name, torch.tensor([0]), torch.tensor([0.0]), name)
    plan_table(Plan(name, {}, (name,), (edit,), {name: {name: name}}, (name,)))
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert text == printable_lines(text)
    assert f"left alone: {printable(name)}" in shown.out
    assert f"{printable(name)} 1" in shown.err
    assert shown.err.endswith(f"{printable(name)}\n")


def test_errors_command_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["inspect", "\x1b]0;owned\x07.pt"], ["\x1b[31m"], ["inspect", "--arch", "[red]\x1b[31m\u202e"]):
        monkeypatch.setattr(sys, "argv", ["surgeon", *arguments])
        with pytest.raises(SystemExit):
            main()
        shown = capsys.readouterr()
        assert r"\x1b" in shown.err
        assert shown.err == printable_lines(shown.err)


class Terminal(io.StringIO):
    """A standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_results_are_whole_for_programs_and_harmless_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = os.fsdecode(b"\x1b[31m\xff.json")
    voice.echo(name)
    voice.echo("\x1b[31m")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"\x1b[31m\xff.json\n\x1b[31m\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    voice.echo(name)
    assert terminal.getvalue() == "\\x1b[31m\\udcff.json\n"


def test_a_live_line_shows_names_as_they_are() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None)
    times = iter(range(0, 1000, 10))
    view = View(console, lambda: float(next(times)))
    for _ in view.track([[torch.zeros(1, 3, 2, 2)]] * 2, "[bold]\x07", 2):
        pass
    assert r"[bold]\x07" in file.getvalue()
    assert "\x07" not in file.getvalue()
