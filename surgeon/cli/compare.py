"""`surgeon compare CHECKPOINT --methods NAME,NAME --data DATA`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.contenders import Contender, contenders
from surgeon.cli.jobs import check_argument, start_options, tuning_job
from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    data_options,
    json_option,
    layers_option,
    save_every_option,
    seed_option,
    weights_option,
)
from surgeon.cli.recipes import recipe_of, recipe_option
from surgeon.cli.tuning_options import tuning_options
from surgeon.cli.unused_options import refuse_unused_of_data, refuse_unused_of_tuning
from surgeon.errors import OptionError

if TYPE_CHECKING:
    from surgeon.operate.comparison_run import Run
    from surgeon.operate.job import Job

OF_THE_COMPARISON = ("methods", "seeds", "set", "layers", "partner", "no-recalibrate")
"""Options that a run's own recipe has in the form of `surgeon apply`, or not at all."""


@click.command(name="compare")
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@click.option(
    "--methods",
    required=True,
    metavar="NAME,…",
    help="The methods (`surgeon methods`); a recipe's name or file stands for its method with its options and layers.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each: seeds --seed, --seed + 1, …"
)
@layers_option
@click.option(
    "--set", "settings", multiple=True, metavar="METHOD.OPTION=VALUE", help="An option of a method; METHOD may be left "
    "out where one alone knows it.",
)  # fmt: skip
@click.option(
    "--partner",
    type=CHECKPOINT,
    help="A second checkpoint for methods that mix two; CHECKPOINT itself by default, as a copy that is trained along.",
)
@start_options
@arch_option
@weights_option
@data_options(hold_out=0.1)
@tuning_options
@click.option("-o", "--output", type=CHECKPOINT, metavar="DIR", help="Folder of results; <stem>-comparison by default.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the comparison.json of other runs that is in the folder; the runs stay."
)
@click.option("--keep-weights", is_flag=True, help="Keep each run's weights; without it, only its record.")
@save_every_option
@click.option("--no-recalibrate", is_flag=True, help="Leave BatchNorm statistics as the operations made them.")
@seed_option
@recipe_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    methods: str,
    seeds: int,
    settings: tuple[str, ...],
    partner: Path | None,
    output: Path | None,
    overwrite: bool,
    keep_weights: bool,
    teacher: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Compare methods on CHECKPOINT with the same fine-tuning without any: same images, order, epochs and seeds.

    Every run is kept in the folder of results and never done twice: the same command goes on where it was interrupted,
    more methods or seeds only add runs, and several such commands at once share them. comparison.json has what the last
    command compared; one that has other runs is only replaced with --overwrite.

    \b
    surgeon compare resnet50.safetensors --methods sofm,kernel-reactivation --data IMAGES --epochs 3 --seeds 5
    """
    check_argument(ctx)
    if values["data"] is not None:
        refuse_unused_of_data(ctx, values["data"])
    refuse_unused_of_tuning(ctx, values, teacher)
    named = contenders(methods, settings)
    from surgeon.cli import render
    from surgeon.cli.comparison_table import print_comparison
    from surgeon.cli.live import View
    from surgeon.operate.compare import compare
    from surgeon.operate.comparison_run import Hooks

    runs = _runs(ctx, named, seeds, values, teacher, partner)
    folder = output or _folder(runs[0].job)
    for one in named:
        if one.left_out:
            render.say(f"Of the recipe {one.name} only the method counts, and not: {', '.join(one.left_out)}.")
    view, said = View(render.ERR), set[str]()

    def on_run(run: Run) -> None:
        render.say(f"Run {runs.index(run) + 1} of {len(runs)}: {run.name}, seed {run.job.seed}")

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            render.say(text)

    hooks = Hooks(view.track, on_run, render.stage_line, view.epoch, say_once)
    try:
        comparison = compare(
            runs, folder, hooks, keep_weights=keep_weights, recipe=recipe_of(ctx, {}), overwrite=overwrite
        )
    except KeyboardInterrupt:
        if folder.is_dir():
            render.say(f"The runs are kept in {folder}. The same command continues them:")
            render.say(shlex.join(["surgeon", *sys.argv[1:]]))
        raise
    print_comparison(comparison, render.ERR if as_json else render.OUT)
    render.echo(comparison.to_json().rstrip() if as_json else str(folder))
    if not comparison.compares:
        sys.exit(1)


def _folder(job: Job) -> Path:
    if job.checkpoint is None:
        return Path(f"{str(job.arch).rpartition(':')[2]}-comparison")
    return job.checkpoint.with_name(f"{job.checkpoint.stem}-comparison")


def _runs(
    ctx: click.Context,
    named: tuple[Contender, ...],
    seeds: int,
    values: dict[str, Any],
    teacher: str | None,
    partner: Path | None,
) -> list[Run]:
    """Return all runs, seed by seed, so that what is interrupted leaves whole pairs behind.

    Raises:
        OptionError: no method takes the partner, or a value is out of its range.
    """
    from surgeon.operate.comparison_run import CONTROL, Run
    from surgeon.operate.inputs import find_method

    mixing = [one.name for one in named if find_method(one.method).needs_partner]
    if partner is not None and not mixing:
        raise OptionError("No method that is compared takes a partner.", "Leave --partner out.")
    outputs = {"output": None, "overwrite": False, "restart": False, "resume_changed": False, "model_card": None}
    runs = []
    for seed in range(values["seed"], values["seed"] + seeds):
        job = tuning_job(ctx, {**values, **outputs, "seed": seed}, teacher)
        shared = {name: value for name, value in job.recipe.items() if name not in OF_THE_COMPARISON}
        control = dataclasses.replace(job, recipe=shared)
        runs.append(Run(CONTROL, control))
        for one in named:
            own = partner or (control.checkpoint if control.init == "checkpoint" else None)
            runs.append(Run(one.name, _with_method(control, one, values, own if one.name in mixing else None)))
    return runs


def _with_method(control: Job, one: Contender, values: dict[str, Any], partner: Path | None) -> Job:
    layers = one.layers or values["layers"]
    recipe = {**control.recipe, "method": one.method}
    if layers:
        recipe["layers"] = list(layers)
    if one.options:
        recipe["set"] = {name: str(value) for name, value in one.options.items()}
    if partner is not None:
        recipe["partner"] = str(partner)
    if values["no_recalibrate"]:
        recipe["no-recalibrate"] = True
    return dataclasses.replace(
        control,
        method=one.method,
        options=one.options,
        layers=layers,
        partner=partner,
        recalibrate=not values["no_recalibrate"],
        recipe=recipe,
    )
