"""What the user sees of a comparison: a table of all methods, and what it allows to say."""

from rich import box
from rich.console import Console
from rich.table import Table

from surgeon.checkpoint.display import shown
from surgeon.cli.render import percent, print_whole
from surgeon.operate.comparison import Comparison, Row
from surgeon.operate.paired import LEVEL, Difference, Spread
from surgeon.printable import printable

NOTHING = "–"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, every method's verdict, what failed, and what the figures do not say."""
    print_whole(comparison_table(comparison), console)
    for row in comparison.rows:
        if row.verdict:
            _print(console, f"{shown(row.name)}: {row.verdict}")
        for reason in dict.fromkeys(row.failed.values()):
            seeds = ", ".join(str(seed) for seed, other in row.failed.items() if other == reason)
            _print(console, f"{shown(row.name)} failed (seed {seeds}): {printable(reason)}")
    _print(console, printable(comparison.verdict))
    for note in comparison.notes:
        _print(console, printable(note))


def comparison_table(comparison: Comparison) -> Table:
    """Return the figures as a table: mean ± standard deviation over the seeds."""
    asked = f"epochs: {comparison.epochs}, seeds: {', '.join(map(str, comparison.seeds))}"
    table = Table(
        title=f"{shown(comparison.arch)} on {shown(comparison.data['name'])}, {asked}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", no_wrap=True)
    for heading in ("top-1 %", "top-5 %", f"top-1 − control ({100 * LEVEL:.0f} %)", "drift", "seconds", "images"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(shown(row.name), *_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _spread(row.figures["top1"]),
        _spread(row.figures["top5"]),
        _difference(row.difference),
        _mean(row.figures["drift"], 3),
        _mean(row.seconds, 1),
        NOTHING if row.images is None else f"{row.images:,}",
    )


def _spread(one: Spread) -> str:
    return percent(one.mean) if one.deviation is None else f"{percent(one.mean)} ± {one.deviation:.2f}"


def _difference(one: Difference | None) -> str:
    if one is None:
        return NOTHING
    interval = "" if one.low is None or one.high is None else f" ({one.low:+.2f} … {one.high:+.2f})"
    return f"{one.mean:+.2f}{interval}"


def _mean(one: Spread, digits: int) -> str:
    return NOTHING if one.mean is None else f"{one.mean:,.{digits}f}"


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
