"""Plot seconds against operations, if matplotlib is there."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

Points = Sequence[tuple[int, float]]


def write(zoo: Points, series: Mapping[str, Points], path: Path) -> None:
    """Write an SVG picture of the zoo as dots and of the long networks as lines; both axes are logarithmic."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f"{path} stays as it is: matplotlib is not there to draw it.", file=sys.stderr)
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _ in zoo], [y for _, y in zoo], ".", markersize=3, alpha=0.6, label="timm and torchvision")
    for name, points in series.items():
        ordered = sorted(points)
        axes.plot([x for x, _ in ordered], [y for _, y in ordered], "o-", markersize=4, linewidth=1, label=name)
    if zoo:
        reach = [min(x for x, _ in zoo), max(x for x, _ in zoo)]
        each = sum(y for _, y in zoo) / sum(x for x, _ in zoo)
        axes.plot(reach, [each * x for x in reach], "--", color="grey", linewidth=1, label="proportional")
    axes.set(xscale="log", yscale="log", xlabel="operations in the exported graph", ylabel="seconds on one core")
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    axes.legend(frameon=False)
    # A fixed salt and no date, so that the same results give the same file.
    with mpl.rc_context({"svg.hashsalt": "surgeon"}):
        figure.savefig(path, metadata={"Date": None})
