"""`surgeon verify [CHECKPOINT]`."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from surgeon.cli.network import network
from surgeon.cli.options import CHECKPOINT, arch_option, example_images, json_option, weights_option
from surgeon.cli.voice import echo


@click.command(name="verify")
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@arch_option
@weights_option
@click.option("--input-size", metavar="C,H,W", help="Override the network's input size.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Random permutations to try.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the permutations.")
@json_option
def command(
    checkpoint: Path | None,
    arch: str | None,
    weights: str | None,
    input_size: str | None,
    rounds: int,
    seed: int,
    as_json: bool,
) -> None:
    """Prove the channel groups of a network by permuting all of them at once.

    A copy in float64, with random weights and BatchNorm statistics, must give the same outputs after it; and it must
    not when one tensor less is permuted. The network is a CHECKPOINT's, or that of --arch.
    """
    model = network(checkpoint, arch, weights)
    import torch

    from surgeon.edit.verify import TOLERANCE, prove
    from surgeon.operate.images import trace_for_images

    shape = example_images(model, input_size).shape
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    graph = trace_for_images(model, images)
    proofs = [prove(model, graph, (images,), seed + number) for number in range(rounds)]
    worst = max(proof.largest for proof in proofs)
    holds = all(proof.holds for proof in proofs)
    counter = min((p.counter_difference for p in proofs if p.counter_difference is not None), default=None)
    if as_json:
        click.echo(json.dumps({"holds": holds, "rounds": [dataclasses.asdict(proof) for proof in proofs]}, indent=2))
    else:
        click.echo(f"{proofs[0].groups} groups with {proofs[0].channels} channels permuted, {rounds} round(s)")
        click.echo(f"{proofs[0].factors} channels rescaled, their factors divided out of what reads them")
        click.echo(f"largest relative difference of the outputs: {worst:.2e} (at most {TOLERANCE:.0e} is rounding)")
        if counter is not None:
            tensor, dim = proofs[0].counter_member or ("", 0)
            echo(f"counter-proof, axis {dim} of {tensor} shifted alone: {counter:.2e}")
        click.echo("proven" if holds else "NOT proven: the coupling graph of this network is wrong; please report it")
    if not holds:
        sys.exit(1)
