"""Charts of the weights: scales, utilization, overlap of the filters, and the coupling graph."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from surgeon.coupling.describe import stage_of, to_svg
from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.measure.utilization import LayerUtilization, Utilization, inhibited_channels, utilization
from surgeon.report.drawing import DASHES, MARKERS, SERIES, line_width, picture, sheet, themed
from surgeon.report.networks import Networks
from surgeon.report.panel import Cell, Missing, Panel, Picture, Table, brief, cut
from surgeon.report.records import EditRow, Run

WHOLE = "the whole network"
BINS = 40
MOST_STAGES = 7
MOST_MARKED = 40
PER_CENT = 100.0
LEAST_SHARE = 5.0
"""Percent that an axis of shares reaches at least."""

LONGEST_RUN = 18
"""Digits of a run of positions, so that each is a number of 64 bits."""

Values = Mapping[str, torch.Tensor]
"""Scales by the name of their network."""


def weight_panels(networks: Networks, run: Run) -> list[Panel]:
    """Return the charts of the weights of a run's networks.

    Args:
        networks: the networks.
        run: whose edits are marked in the coupling graph.
    """
    used = {
        name: utilization(networks.graph, model.state_dict(keep_vars=True)) for name, model in networks.models.items()
    }
    return [scales_chart(networks), utilization_chart(used), overlap_chart(used), coupling_picture(networks.graph, run)]


def scales_chart(networks: Networks) -> Panel:
    """Return histograms of the magnitudes of all BatchNorm scales γ, together and by stage."""
    keys = {name: norm.weight for name, norm in networks.graph.norms.items() if norm.weight is not None}
    if not keys:
        return Missing("Scales γ", "The network has no BatchNorm with scales.", "There is nothing to give.")
    stages: dict[str, list[str]] = {}
    for name, key in keys.items():
        stages.setdefault(stage_of(name), []).append(key)
    parts = {WHOLE: list(keys.values()), **(stages if len(stages) > 1 else {})}
    states = {name: model.state_dict() for name, model in networks.models.items()}
    values = {
        part: {name: torch.cat([state[key].abs().float() for key in members]) for name, state in states.items()}
        for part, members in parts.items()
    }
    drawn_parts = list(values.items())[: 1 + MOST_STAGES]
    with sheet(1.4 + 1.5 * ((len(drawn_parts) + 1) // 2)) as figure:
        grid = figure.subplots((len(drawn_parts) + 1) // 2, 2 if len(drawn_parts) > 1 else 1, squeeze=False).flat
        spare = list(grid)
        for part, scales in drawn_parts:
            _draw_histogram(spare.pop(0), part, scales)
        for axes in spare:
            axes.set_visible(False)
        drawn = figure.axes[0].get_legend_handles_labels()
        figure.legend(*drawn, loc="outside upper center", ncols=len(states))
        rows = tuple(_scale_row(part, name, scale) for part, of in values.items() for name, scale in of.items())
        rows += tuple(
            _scale_row(norm, name, state[key].abs().float())
            for norm, key in keys.items()
            for name, state in states.items()
        )
        columns = ("part", "network", "channels", "inhibited, |γ| < 0.01", "least", "median", "largest", "not finite")
        counts = [f"{name} {int(inhibited_channels(scale).sum())}" for name, scale in values[WHOLE].items()]
        total = next(iter(values[WHOLE].values())).numel()
        caption = (
            f"Magnitudes of the {total} BatchNorm scales γ, as histograms. Inhibited channels, with |γ| < 0.01: "
            f"{', '.join(counts)}.{cut(MOST_STAGES, len(parts) - 1, 'stages')}"
        )
        lost = {name: int((~scale.isfinite()).sum()) for name, scale in values[WHOLE].items()}
        if any(lost.values()):
            told = ", ".join(f"{name} {count}" for name, count in lost.items() if count)
            caption += f" Scales that are no finite numbers are not drawn: {told}."
        return picture(figure, "scales", "Scales γ of BatchNorm", caption, Table(columns, rows))


def utilization_chart(used: Mapping[str, Utilization]) -> Panel:
    """Return how much of every layer is dead, inhibited or weak, network by network."""
    kinds = {"dead": "dead", "inhibited": "inhibited", "weak_filters": "weak"}
    layers = [row for row in next(iter(used.values())).layers if row.filters]
    with sheet(5.0) as figure:
        grid = figure.subplots(len(kinds), 1, sharex=True)
        for axes, (kind, label) in zip(grid, kinds.items(), strict=True):
            for number, (name, one) in enumerate(used.items()):
                _draw_layers(axes, number, name, [_share(row, getattr(row, kind)) for row in one.layers if row.filters])
            axes.set_ylabel(f"{label} (%)")
            axes.set_ylim(0, max(LEAST_SHARE, axes.get_ylim()[1]))
        grid[-1].set_xlabel("convolution or linear layer, in order of execution")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(used))
        rows: list[tuple[Cell, ...]] = [
            (name, WHOLE, None, _sum(one.layers, "dead"), _sum(one.layers, "inhibited"),
             _sum(one.layers, "weak_filters"), PER_CENT * one.parameter_share, PER_CENT * one.flop_share)
            for name, one in used.items()
        ]  # fmt: skip
        for name, one in used.items():
            rows += [
                (name, row.name, row.filters, row.dead, row.inhibited, row.weak_filters,
                 _percent(row.effective_parameters, row.parameters), _percent(row.effective_flops, row.flops))
                for row in one.layers if row.filters
            ]  # fmt: skip
        columns = ("network", "layer", "filters", "dead", "inhibited", "weak", "parameters in use %", "FLOPs in use %")
        told = [f"{name} {PER_CENT * one.parameter_share:.1f} %" for name, one in used.items()]
        caption = (
            f"Filters of each of {len(layers)} layers that are dead (|γ| below 1 % of the layer's largest), inhibited "
            "(|γ| < 0.01) or weak (conditions C1 and C2 of kernel reactivation), in percent of its filters. Parameters "
            f"in use: {', '.join(told)}."
        )
        return picture(figure, "utilization", "Utilization", caption, Table(columns, tuple(rows)))


def overlap_chart(used: Mapping[str, Utilization]) -> Panel:
    """Return how much the filters of every convolution overlap, network by network."""
    if not any(row.overlap_mean is not None for one in used.values() for row in one.layers):
        return Missing("Filter overlap", "The network has no convolution.", "There is nothing to give.")
    with sheet(3.2) as figure:
        axes = figure.add_subplot()
        for number, (name, one) in enumerate(used.items()):
            _draw_layers(axes, number, name, [row.overlap_mean for row in one.layers if row.overlap_mean is not None])
        axes.set_xlabel("convolution, in order of execution")
        axes.set_ylabel("mean overlap")
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")
        rows = tuple(
            (name, row.name, row.overlap_mean, row.overlap_worst)
            for name, one in used.items()
            for row in one.layers
            if row.overlap_mean is not None
        )
        means = [f"{name} {_mean(one.layers):.3f}" for name, one in used.items()]
        caption = (
            "How much the filters of every convolution overlap with the others of their layer: the mean of RePr's sums "
            f"(equation 2), 0 where all are orthogonal and near 1 where all are alike. Mean over the layers: "
            f"{', '.join(means)}."
        )
        table = Table(("network", "layer", "mean", "worst"), rows)
        return picture(figure, "overlap", "Overlap of the filters", caption, table)


def coupling_picture(graph: CouplingGraph, run: Run) -> Picture:
    """Return the coupling graph as a picture in which the groups that a run edited are marked."""
    edited = edited_groups(graph, run.edits)
    rows = tuple(
        (group.name, group.size, len(group.members), "yes" if group in edited else "no") for group in graph.groups
    )
    caption = (
        f"The {len(graph.groups)} sets of channels that move together: every module with the set that it reads on the "
        f"left and the one that it writes on the right. {len(edited)} of them were edited, and have a frame and an ✎."
    )
    svg = to_svg(graph, edited=edited)
    title = "Coupling graph"
    table = Table(("group", "channels", "tensor axes", "edited"), rows)
    return Picture("coupling", title, caption, svg, themed(svg, "coupling"), table)


def edited_groups(graph: CouplingGraph, edits: Sequence[EditRow]) -> frozenset[ChannelGroup]:
    """Return the groups of which an edit changed what writes them, or what belongs to them alone."""
    changed: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for edit in edits:
        changed.setdefault((edit.tensor, edit.dim), []).extend(runs_of(edit.positions))
    return frozenset(
        group
        for group in graph.groups
        for member in group.members
        if member.role != "consumer"
        and any(
            bool(((member.positions >= first) & (member.positions <= last)).any())
            for first, last in changed.get((member.tensor, member.dim), ())
        )
    )


def runs_of(text: str) -> list[tuple[int, int]]:
    """Return the first and last positions of a text such as `0-3,7`; what is none is passed over."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (not last or last.isdecimal()) and len(part) <= LONGEST_RUN:
            found.append((int(first), int(last or first)))
    return found


def _draw_histogram(axes: Axes, title: str, scales: Values) -> None:
    finite = {name: scale[scale.isfinite()] for name, scale in scales.items()}
    largest = max((float(scale.max()) for scale in finite.values() if len(scale)), default=0.0) or 1.0
    for number, (name, scale) in enumerate(finite.items()):
        counts, edges = torch.histogram(scale.cpu(), BINS, range=(0.0, largest))
        axes.stairs(
            counts.numpy(),
            edges.numpy(),
            color=SERIES[number],
            linestyle=DASHES[number],
            linewidth=line_width(number),
            label=brief(name),
        )
    axes.set_title(title, loc="left")
    axes.set_xlabel("|γ|")
    axes.set_ylabel("channels")


def _scale_row(part: str, name: str, scale: torch.Tensor) -> tuple[Cell, ...]:
    inhibited = int(inhibited_channels(scale).sum())
    finite = scale[scale.isfinite()]
    figures = [float(of(finite)) if len(finite) else None for of in (torch.min, torch.median, torch.max)]
    return (part, name, scale.numel(), inhibited, *figures, scale.numel() - len(finite))


def _draw_layers(axes: Axes, number: int, name: str, values: Sequence[float | None]) -> None:
    known = [(place + 1, value) for place, value in enumerate(values) if value is not None]
    axes.plot(
        [place for place, _ in known],
        [value for _, value in known],
        color=SERIES[number],
        linestyle=DASHES[number],
        linewidth=line_width(number),
        marker=MARKERS[number] if len(known) <= MOST_MARKED else "",
        label=brief(name),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _share(row: LayerUtilization, count: int | None) -> float | None:
    return None if count is None or not row.filters else PER_CENT * count / row.filters


def _percent(part: int, whole: int) -> float | None:
    return PER_CENT * part / whole if whole else None


def _sum(rows: Sequence[LayerUtilization], kind: str) -> int | None:
    known = [getattr(row, kind) for row in rows if getattr(row, kind) is not None]
    return sum(known) if known else None


def _mean(rows: Sequence[LayerUtilization]) -> float:
    known = [row.overlap_mean for row in rows if row.overlap_mean is not None]
    return sum(known) / len(known)
