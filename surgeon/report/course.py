"""Charts of what a record alone tells: the stages, and the epochs beside the control's."""

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from surgeon.report.drawing import DASHES, FAINT, INK, MARKERS, SERIES, line_width, picture, sheet
from surgeon.report.groups import Group, Measure, Reach, best_measure, reach
from surgeon.report.panel import Cell, Missing, Panel, Table, brief, cut, in_words
from surgeon.report.records import Run

BAR, MARGIN = 0.32, 0.9
"""Inches: of a bar, and of what is around all of them."""

MOST_MARKED = 30
"""Epochs up to which each has a mark of its own."""

MOST_BARS = 60
MOST_METRICS = 20
"""Stages that the chart shows, and figures of another task beside them."""

MOST_CURVES = 12
MOST_SPANS = 50
"""Runs beside each other, each twice for every colour, and phases that are shaded."""

NO_FIGURES = Missing(
    "Accuracy", "The records hold no accuracy and no agreement.", "Run with --data, so that there are images to ask."
)


def stages_chart(groups: Sequence[Group]) -> Panel:
    """Return the figures of every stage as bars, the mean and the range where there are several seeds."""
    runs = [run for group in groups for run in group.runs]
    measure = best_measure(runs)
    if measure is None:
        return NO_FIGURES
    bars = [
        (
            group,
            name,
            reach([measure.of(run.stages[number]) for run in group.runs if number < len(run.stages)]),
        )
        for group in groups
        for number, name in enumerate(_stage_names(group.runs[0]))
    ]
    found = [(group, name, value) for group, name, value in bars if value is not None]
    if not found:
        return NO_FIGURES
    # Without the control nothing says what the operation has done.
    chosen = sorted(range(len(found)), key=lambda place: not found[place][0].is_control)[:MOST_BARS]
    known = [found[place] for place in sorted(chosen)]
    with sheet(MARGIN + BAR * len(known)) as figure:
        axes = figure.add_subplot()
        for place, (group, _, value) in enumerate(known):
            series = groups.index(group) % len(SERIES)
            axes.barh(place, value.mean, color=SERIES[series], alpha=0.8, height=0.7)
            if value.count > 1:
                axes.plot([value.low, value.high], [place, place], color=INK, marker="|", linewidth=1.2)
            axes.annotate(
                f"{value.mean:.2f}", (max(value.high, 0), place), (4, 0), textcoords="offset points", va="center"
            )
        several = len(groups) > 1
        axes.set_yticks(
            range(len(known)), [brief(f"{g.label}: {name}" if several else name, 40) for g, name, _ in known]
        )
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_xlabel(brief(measure.name))
        courses = [
            f"{group.label} {in_words([value.mean for one, _, value in found if one is group])}" for group in groups
        ]
        caption = f"{measure.name} after every stage: {'; '.join(courses)}.{cut(MOST_BARS, len(found), 'bars')}"
        if any(value.count > 1 for _, _, value in known):
            caption += " Bars are means over the seeds, thin lines reach from the least to the largest."
        names = dict.fromkeys(name for one in runs for stage in one.stages for name in stage.metrics)
        caption += cut(MOST_METRICS, len(names), "other figures in the table")
        return picture(figure, "stages", "Stages", caption, _stage_table(groups, list(names)[:MOST_METRICS]))


def epochs_chart(groups: Sequence[Group]) -> Panel:
    """Return the accuracy after every epoch: the mean of the seeds, and their range as a band."""
    runs = [run for group in groups for run in group.runs]
    measure = best_measure(runs)
    curves = [] if measure is None else [(group, _curve(group, measure)) for group in groups]
    curves = [(group, curve) for group, curve in curves if any(value is not None for value in curve)]
    total = len(curves)
    chosen = sorted(range(total), key=lambda place: not curves[place][0].is_control)[:MOST_CURVES]
    curves = [curves[place] for place in sorted(chosen)]
    if measure is None or not curves:
        return Missing(
            "Accuracy per epoch", "The records hold no epoch with figures.", "Fine-tune with --data and --epochs."
        )
    with sheet(3.4) as figure:
        axes = figure.add_subplot()
        for number, (group, curve) in enumerate(curves):
            _draw_curve(axes, number, group.label, curve)
        marked = [*_draw_phases(axes, runs), *_draw_operations(axes, runs)]
        start = reach([measure.of(run.stages[0]) for run in runs if run.stages])
        if start is not None:
            axes.axhline(start.mean, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), label="original")
        axes.set_xlabel("epoch of fine-tuning")
        axes.set_ylabel(brief(measure.name))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")
        rows = tuple(
            (group.label, epoch + 1, value.mean, value.low, value.high, value.count)
            for group, curve in curves
            for epoch, value in enumerate(curve)
            if value is not None
        )
        table = Table(("run", "epoch", measure.name, "least", "largest", "seeds"), rows)
        courses = [f"{group.label} {in_words([value.mean for value in curve if value])}" for group, curve in curves]
        caption = f"{measure.name} on the validation images after every epoch: {'; '.join(courses)}."
        caption += cut(MOST_CURVES, total, "curves")
        if any(value is not None and value.count > 1 for _, curve in curves for value in curve):
            caption += " Lines are means over the seeds, bands reach from the least to the largest."
        caption += "".join(f" {sentence}" for sentence in marked)
        if not any(group.is_control for group in groups):
            caption += " There is no control: give the record of `surgeon finetune` with the same settings, too."
        return picture(figure, "epochs", "Accuracy per epoch", caption, table)


def _stage_names(run: Run) -> list[str]:
    several = len(run.targets) > 1
    return [f"{s.name} ({s.target})" if several and s.target is not None else s.name for s in run.stages]


def _stage_table(groups: Sequence[Group], shown: Sequence[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        for run in group.runs:
            for stage in run.stages:
                agreement = None if stage.agreement is None else 100 * stage.agreement
                figures = (stage.top1, stage.top5, stage.loss, stage.drift, agreement, stage.seconds)
                others = (stage.metrics.get(name) for name in shown)
                rows.append((group.label, run.seed, stage.name, stage.target, *figures, *others))
    columns = ("run", "seed", "stage", "target", "top-1 %", "top-5 %", "loss", "drift", "agreement %", "seconds")
    return Table((*columns, *shown), tuple(rows))


def _curve(group: Group, measure: Measure) -> list[Reach | None]:
    longest = max(len(run.epochs) for run in group.runs)
    return [
        reach([measure.of(run.epochs[epoch]) for run in group.runs if epoch < len(run.epochs)])
        for epoch in range(longest)
    ]


def _draw_curve(axes: Axes, number: int, label: str, curve: Sequence[Reach | None]) -> None:
    places = [epoch + 1 for epoch, value in enumerate(curve) if value is not None]
    values = [value for value in curve if value is not None]
    look = number % len(SERIES)
    axes.plot(
        places,
        [value.mean for value in values],
        color=SERIES[look],
        linestyle=DASHES[look],
        linewidth=line_width(look),
        marker=MARKERS[look] if len(places) <= MOST_MARKED else "",
        label=brief(label),
    )
    if any(value.count > 1 for value in values):
        lows, highs = [value.low for value in values], [value.high for value in values]
        axes.fill_between(places, lows, highs, color=SERIES[look], alpha=0.2, linewidth=0)


def _draw_phases(axes: Axes, runs: Sequence[Run]) -> list[str]:
    """Shade the phases other than the first one, of the first run that has any, and say so in words."""
    phased = next((run for run in runs if any(epoch.phase for epoch in run.epochs)), None)
    if phased is None:
        return []
    full = phased.epochs[0].phase
    named: set[str] = set()
    place = spans = 0
    for phase, members in groupby(epoch.phase for epoch in phased.epochs):
        length = len(list(members))
        if phase is not None and phase != full:
            label = None if phase in named else brief(f"{phase} ({phased.method})")
            spans += 1
            if spans <= MOST_SPANS:
                named.add(phase)
                axes.axvspan(place + 0.5, place + length + 0.5, color=FAINT, alpha=0.5, linewidth=0, label=label)
        place += length
    if not named:
        return []
    return [f"Shaded epochs of {phased.method}: {', '.join(sorted(named))}.{cut(MOST_SPANS, spans, 'phases')}"]


def _draw_operations(axes: Axes, runs: Sequence[Run]) -> list[str]:
    """Mark the epochs before which the first run that operates again did so, and say so in words."""
    repeated = next((run for run in runs if any(epoch.operated for epoch in run.epochs)), None)
    if repeated is None:
        return []
    places = [number + 0.5 for number, epoch in enumerate(repeated.epochs) if epoch.operated]
    bottom = [0.02] * len(places)
    axes.plot(
        places,
        bottom,
        linestyle="",
        marker="^",
        color=INK,
        transform=axes.get_xaxis_transform(),
        label=brief(f"operation ({repeated.method})"),
    )
    return [f"Triangles: {repeated.method} operates on the network before {len(places)} epochs."]
