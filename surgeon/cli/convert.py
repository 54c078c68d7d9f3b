"""`surgeon convert CHECKPOINT (--onnx | --full)`."""

import dataclasses
import json
from pathlib import Path

import click

from surgeon.cli.network import network
from surgeon.cli.options import CHECKPOINT, arch_option, json_option, numbers, weights_option
from surgeon.errors import OptionError

ANY = "dynamic"


@click.command(name="convert")
@click.argument("checkpoint", type=CHECKPOINT)
@click.option("--onnx", "as_onnx", is_flag=True, help="Write ONNX (.onnx), with the weights inside.")
@click.option(
    "--full", "as_full", is_flag=True, help="Write a program of torch.export (.pt2), which torch alone loads."
)
@click.option(
    "-o", "--output", type=CHECKPOINT, help="The result; <stem>.onnx or <stem>.pt2 beside the input by default."
)
@arch_option
@weights_option
@click.option("--input-size", metavar="C,H,W", help="Override the network's input size.")
@click.option(
    "--batch", metavar="N", default=ANY, show_default=True, help="Images that the result takes at once; any number."
)
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@json_option
def command(
    checkpoint: Path,
    as_onnx: bool,
    as_full: bool,
    output: Path | None,
    arch: str | None,
    weights: str | None,
    input_size: str | None,
    batch: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a checkpoint's network as a program that runs without surgeon, in evaluation mode.

    Its answers to random images are compared with the network's before the file appears. It takes images as the network
    does, normalized, and nothing of the training is in it.

    \b
    surgeon convert resnet50-neural-rejuvenation.safetensors --onnx
    """
    if as_onnx == as_full:
        raise click.UsageError("Give either --onnx or --full.")
    count = _count(batch)
    from surgeon.checkpoint.apart import check_apart
    from surgeon.cli import render
    from surgeon.data import image_size
    from surgeon.operate.convert import LITTLE, SUFFIXES, Kind, check_conversion, convert

    kind: Kind = "onnx" if as_onnx else "full"
    path = checkpoint.with_suffix(SUFFIXES[kind]) if output is None else output
    check_apart([("the program", path)], [("the checkpoint", checkpoint)])
    check_conversion(path, kind, overwrite)
    model = network(checkpoint, arch, weights)
    size = image_size(model, numbers(input_size, "input-size", int))
    done = convert(model, path, kind, size, batch=count, overwrite=overwrite)
    if as_json:
        render.echo(json.dumps({**dataclasses.asdict(done), "path": str(done.path)}, indent=2))
        return
    sizes = " and ".join(str(size) for size in dict.fromkeys(done.tried))
    taken = "any number of images" if done.batch is None else f"{done.batch} image(s)"
    render.say(f"It takes {taken} of {' × '.join(map(str, done.size))} at once, normalized as the network's are.")
    render.say(f"Its answers differ from the network's by {done.difference:.1e} of their length (batches of {sizes}).")
    if done.spread <= LITTLE:
        render.say("That proves little: the network answers nearly the same to any random images.")
    if done.pickled:
        render.say("This version of torch pickles the weights in it; newer ones write them raw.")
    render.echo(str(done.path))


def _count(batch: str) -> int | None:
    """Return the images a batch, or None for any number."""
    if batch == ANY:
        return None
    if not batch.isascii() or not batch.isdigit() or int(batch[:9]) < 1:
        raise OptionError(f"The option --batch is '{batch}'.", f"Give a number of images, or {ANY}.")
    return int(batch[:9])
