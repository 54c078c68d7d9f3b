"""What the user sees when something has ended: lines and tables. Everything goes to stderr but results."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from surgeon.cli import voice
from surgeon.cli.screen import Screen
from surgeon.cli.voice import is_main
from surgeon.data.synthetic import NOTES as SYNTHETIC
from surgeon.edit.plan import Plan
from surgeon.methods import Method
from surgeon.methods.options import describe
from surgeon.operate.record import Record, Stage
from surgeon.tuning import EpochRecord

MOST_REMARKS = 5
"""Lines that a result shows of each kind; the record and the dry run have all of them."""

WIDEST = 1000
"""Characters of a line that no table exceeds."""

ERR = Screen(stderr=True, quiet=not is_main())
OUT = Screen()


def say(text: str) -> None:
    """Print a line for the reader."""
    ERR.print(text, highlight=False, soft_wrap=True)


def print_whole(table: Table, console: Console) -> None:
    """Print a table as wide as it is: a narrower screen breaks the lines, where rich would cut the numbers."""
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    Screen(file=console.file, width=max(console.width, needed)).print(table)


def percent(value: float | None) -> str:
    """Return a percentage, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def stage_line(stage: Stage) -> None:
    """Print one finished stage."""
    parts = [f"{stage.name:>12}"]
    if stage.top1 is not None:
        parts.append(f"top-1 {stage.top1:.2f} %")
    elif stage.metrics:
        parts.append(by_name(stage.metrics))
    if stage.agreement is not None and stage.name != "original":
        parts.append(f"agreement {100 * stage.agreement:.1f} %")
    parts.append(f"{stage.seconds:.1f} s")
    say("  ".join(parts))


def record_table(record: Record, *, to_stderr: bool) -> None:
    """Print the figures of all stages."""
    table = Table(title=f"{record.method} on {_targets(record.targets)}", title_justify="left")
    table.add_column("stage")
    scored = any(stage.top1 is not None for stage in record.stages)
    for heading in (*(("top-1 %", "top-5 %", "loss") if scored else ()), "drift", "agreement %", "seconds"):
        table.add_column(heading, justify="right")
    for stage in record.stages:
        name = stage.name if stage.target is None or len(record.targets) < 2 else f"{stage.name} ({stage.target})"
        agreement = None if stage.agreement is None else 100 * stage.agreement
        loss = "–" if stage.loss is None else f"{stage.loss:.4f}"
        table.add_row(
            name,
            *((percent(stage.top1), percent(stage.top5), loss) if scored else ()),
            "–" if stage.drift is None else f"{stage.drift:.4f}",
            percent(agreement),
            f"{stage.seconds:.1f}",
        )
    console = ERR if to_stderr else OUT
    console.print(table)
    if record.data and record.data["kind"] != "images":
        console.print(SYNTHETIC[record.data["kind"]], highlight=False, soft_wrap=True)
    figures_lines(console, record.figures)
    for sentence in record.skipped[:MOST_REMARKS]:
        console.print(f"left alone: {sentence}", highlight=False, soft_wrap=True)
    if len(record.skipped) > MOST_REMARKS:
        rest = len(record.skipped) - MOST_REMARKS
        console.print(f"… and {rest} more remarks on what was left alone, in the record.", highlight=False)


def figures_lines(console: Console, figures: Mapping[str, Any]) -> None:
    """Print a method's own numbers, the first of them where there are many."""
    for name, numbers in list(figures.items())[:MOST_REMARKS]:
        shown = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in numbers.items())
        console.print(f"{name}: {shown}", highlight=False, soft_wrap=True)
    if len(figures) > MOST_REMARKS:
        console.print(f"… and {len(figures) - MOST_REMARKS} more.", highlight=False)


def _targets(names: Sequence[str]) -> str:
    return ", ".join(names) or "the whole network"


def plan_table(plan: Plan) -> None:
    """Print every change of a plan, and what it leaves alone."""
    table = Table(title=f"{plan.method} on {_targets(plan.targets)}: nothing is changed yet", title_justify="left")
    table.add_column("tensor", overflow="fold")
    table.add_column("axis", justify="right")
    table.add_column("channels", justify="right")
    table.add_column("what happens")
    for change in plan.changes():
        rows = "" if change.rows is None else f" (rows {change.rows.start}-{change.rows.stop - 1})"
        table.add_row(change.tensor + rows, str(change.dim), str(change.channels), change.what)
    OUT.print(table)
    for group, figures in plan.figures.items():
        shown = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in figures.items())
        OUT.print(f"{group}: {shown}", highlight=False, soft_wrap=True)
    for sentence in plan.skipped:
        OUT.print(f"left alone: {sentence}", highlight=False, soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def method_table(methods: Sequence[Method]) -> None:
    """Print the methods, what they need and what they do."""
    table = Table(show_lines=False)
    for heading in ("method", "needs", "what it does"):
        table.add_column(heading, overflow="fold")
    for method in methods:
        sometimes = any(option.name == "criterion" for option in method.options)
        images = "images" if method.needs_data else "images for some criteria" if sometimes else "–"
        needs = "a partner" if method.needs_partner else images
        table.add_row(method.name, needs, method.summary)
    OUT.print(table)
    OUT.print("`surgeon methods NAME` shows its paper and its options.", highlight=False)


def option_table(method: Method) -> None:
    """Print one method's options with defaults and the paper's values."""
    OUT.print(f"{method.name}: {method.summary}\n{method.paper}", highlight=False)
    table = Table(show_lines=True)
    for heading in ("--set", "type", "default", "paper", "meaning"):
        table.add_column(heading, overflow="fold")
    for option in method.options:
        paper = "–" if option.paper is None else str(option.paper)
        default = "none" if option.default is None else str(option.default)
        table.add_row(option.name, describe(option.type), default, paper, option.help)
    OUT.print(table)


def echo(text: str) -> None:
    """Print a result to stdout as it is."""
    voice.echo(text)


def epoch_line(record: EpochRecord) -> None:
    """Print one finished epoch of fine-tuning."""
    phase = "" if record.phase is None else f"  {record.phase}"
    before = record.operation or {}
    if "utilization" in before:
        phase += f", {before['utilization']:.1%} in use before"
    say(
        f"    epoch {record.epoch + 1:>3}  loss {record.train_loss:.4f}  {epoch_scores(record)}  "
        f"{record.images_per_second:,.0f} images/s{phase}"
    )


def epoch_scores(record: EpochRecord) -> str:
    """Return what a network achieved after an epoch: top-1, or the figures of another task."""
    if record.top1 is not None:
        return f"top-1 {record.top1:.2f} %"
    if record.metrics.keys() == {"agreement", "drift"}:
        return f"agreement {100 * record.metrics['agreement']:.1f} %  drift {record.metrics['drift']:.4g}"
    return by_name(record.metrics)


def by_name(metrics: Mapping[str, float]) -> str:
    """Return the figures of a task by their names, to four digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
