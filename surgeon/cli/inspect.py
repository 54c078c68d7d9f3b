"""`surgeon inspect [CHECKPOINT]`."""

import json
from pathlib import Path

import click

from surgeon.cli.network import network
from surgeon.cli.options import CHECKPOINT, arch_option, example_images, json_option, layers_option, weights_option
from surgeon.cli.voice import echo
from surgeon.errors import OptionError


@click.command(name="inspect")
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@arch_option
@weights_option
@layers_option
@click.option("--input-size", metavar="C,H,W", help="Override the network's input size.")
@click.option(
    "--utilization",
    "as_utilization",
    is_flag=True,
    help="Show layer by layer how much of the network is in use: dead and inhibited channels, weak filters and kernels,"
    " overlap, effective parameters and FLOPs.",
)
@json_option
@click.option("--dot", "as_dot", is_flag=True, help="Print the graph in Graphviz's language.")
@click.option("--svg", "as_svg", is_flag=True, help="Print a picture of the graph.")
def command(
    checkpoint: Path | None,
    arch: str | None,
    weights: str | None,
    layers: tuple[str, ...],
    input_size: str | None,
    as_utilization: bool,
    as_json: bool,
    as_dot: bool,
    as_svg: bool,
) -> None:
    """Show which tensor axes carry the same channels, and what is frozen and why.

    The network is a CHECKPOINT's, or that of --arch without weights.
    """
    if as_json + as_dot + as_svg > 1:
        raise OptionError("Several output formats are asked for.", "Choose one of --json, --dot and --svg.")
    if as_utilization and (as_dot or as_svg):
        raise OptionError("There is no picture of the utilization.", "Give --utilization alone or with --json.")
    model = network(checkpoint, arch, weights)
    from surgeon.coupling import describe
    from surgeon.operate.images import trace_for_images
    from surgeon.operate.targets import find_targets

    graph = trace_for_images(model, example_images(model, input_size))
    if as_utilization:
        from surgeon.cli.utilization import show

        show(graph, model, layers, as_json=as_json)
        return
    chosen = find_targets(graph, layers) if layers else None
    if as_json:
        echo(json.dumps(describe.to_json(graph, chosen), indent=2))
    elif as_dot:
        echo(describe.to_dot(graph, chosen))
    elif as_svg:
        echo(describe.to_svg(graph, chosen))
    else:
        echo(describe.tree(graph, chosen))
