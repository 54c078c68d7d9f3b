"""`surgeon diff A B`."""

import json
import sys
from pathlib import Path

import click

from surgeon.cli.options import CHECKPOINT, arch_option, example_images, json_option
from surgeon.errors import SurgeonError


class _Refusal(click.ClickException):
    """A refusal where 1 says that the tensors differ."""

    exit_code = 2


@click.command(name="diff")
@click.argument("first", metavar="A", type=CHECKPOINT)
@click.argument("second", metavar="B", type=CHECKPOINT)
@arch_option
@click.option("--weights", metavar="KEY", help="Which weights to take where a file holds several, e.g. model_ema.")
@click.option("--other-weights", metavar="KEY", help="The same for B, where it is another key than for A.")
@click.option("--input-size", metavar="C,H,W", help="Override the network's input size.")
@click.option(
    "--exit-code", is_flag=True, help="Exit with 1 where the tensors differ, like git diff; then a refusal is 2."
)
@json_option
def command(
    first: Path,
    second: Path,
    arch: str | None,
    weights: str | None,
    other_weights: str | None,
    input_size: str | None,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Show in which tensors and channels checkpoint B differs from A, by how much, and whether B is A reordered.

    Where the network is known (--arch, a header, a config.json or a file's name), the order of channels is looked for
    by which B comes closest to A. Nothing that a file holds is run.

    \b
    surgeon diff resnet50.safetensors resnet50-sofm.safetensors
    """
    from surgeon.cli import differences, render
    from surgeon.operate.diff import diff

    try:
        found = diff(
            first,
            second,
            arch=arch,
            weights=weights,
            other_weights=other_weights or weights,
            example=lambda model: example_images(model, input_size),
        )
    except SurgeonError as error:
        if not exit_code:
            raise
        raise _Refusal(f"{error.problem}\n{error.remedy}") from error
    if as_json:
        for note in (*found.first.notes, *found.second.notes):
            render.say(note)
        render.echo(json.dumps(found.to_dict(), indent=2))
    else:
        differences.show(found)
    if exit_code and not found.same:
        sys.exit(1)
