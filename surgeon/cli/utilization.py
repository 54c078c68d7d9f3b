"""What `surgeon inspect --utilization` shows: a row for every layer, the network's sums last."""

import dataclasses
import json
from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from surgeon.cli.render import OUT, print_whole
from surgeon.cli.voice import echo
from surgeon.coupling import CouplingGraph
from surgeon.measure.utilization import LayerUtilization, Utilization, utilization
from surgeon.methods.base import Inputs
from surgeon.operate.targets import find_scope

NOTHING = "–"
COLUMNS = (
    "filters", "dead", "inhibited", "weak\nfilters", "weak\nkernels", "overlap\nmean", "\nworst",
    "thousand\nparameters", "in use\n%", "\nMFLOPs", "in use\n%",
)  # fmt: skip
LEGEND = (
    "dead: |γ| below 1 % of its BatchNorm's largest; inhibited: |γ| below 0.01; weak: conditions C1 to C3 of kernel"
    " reactivation (0.2, 0.3, 0.1); overlap: orthogonality sums, 0 to 1; in use: what is left without the dead channels"
    " that nothing else keeps alive; FLOPs: for one image, two for each multiplication with addition."
)


def show(graph: CouplingGraph, model: nn.Module, patterns: Sequence[str], *, as_json: bool) -> None:
    """Print how much of a network is in use, of all layers or those that the patterns name.

    Raises:
        LayerError: a pattern matches nothing.
    """
    scope = Inputs(graph, find_scope(graph, patterns), {})
    layers = tuple(layer.name for layer in scope.layers())
    used = utilization(graph, model.state_dict(keep_vars=True))
    if as_json:
        echo(utilization_json(used, layers))
    else:
        print_utilization(used, OUT, layers)


def print_utilization(used: Utilization, console: Console, layers: Collection[str] | None = None) -> None:
    """Print the table; see `utilization_table`."""
    print_whole(utilization_table(used, layers), console)


def utilization_table(used: Utilization, layers: Collection[str] | None = None) -> Table:
    """Return the numbers as a table.

    Args:
        used: the numbers.
        layers: names of the layers to show, None for all; the sums are always the network's.
    """
    table = Table(
        title="Utilization",
        title_justify="left",
        caption=LEGEND,
        caption_justify="left",
        show_footer=True,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", "whole network", no_wrap=True)
    for heading, total in zip(COLUMNS, _totals(used), strict=True):
        table.add_column(heading, total, justify="right", no_wrap=True)
    for row in used.layers:
        if layers is None or row.name in layers:
            table.add_row(row.name, *_cells(row))
    return table


def utilization_json(used: Utilization, layers: Collection[str] | None = None) -> str:
    """Return the same numbers as JSON text, of all layers or those named."""
    kept = tuple(row for row in used.layers if layers is None or row.name in layers)
    return json.dumps(dataclasses.asdict(dataclasses.replace(used, layers=kept)), indent=2)


def _cells(row: LayerUtilization) -> tuple[str, ...]:
    return (
        _count(row.filters),
        _count(row.dead),
        _count(row.inhibited),
        _count(row.weak_filters),
        _count(row.weak_kernels),
        _overlap(row.overlap_mean),
        _overlap(row.overlap_worst),
        *_resources(row.parameters, row.effective_parameters, row.flops, row.effective_flops),
    )


def _totals(used: Utilization) -> tuple[str, ...]:
    counts = (
        _count(_sum([getattr(row, name) for row in used.layers]))
        for name in ("filters", "dead", "inhibited", "weak_filters", "weak_kernels")
    )
    worst = [row.overlap_worst for row in used.layers if row.overlap_worst is not None]
    resources = _resources(used.parameters, used.effective_parameters, used.flops, used.effective_flops)
    return (*counts, "", _overlap(max(worst, default=None)), *resources)


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _resources(parameters: int, effective: int, flops: int, effective_flops: int) -> tuple[str, str, str, str]:
    return (
        f"{parameters / 1e3:,.1f}",
        _percent(effective, parameters),
        f"{flops / 1e6:,.1f}",
        _percent(effective_flops, flops),
    )


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _overlap(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else NOTHING
