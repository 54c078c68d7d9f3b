"""`surgeon apply CHECKPOINT --method NAME`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.exemplar_options import data_free_tuning, exemplar_job, exemplar_options, first_words
from surgeon.cli.jobs import check_argument, start_options, tuning_job
from surgeon.cli.options import (
    CHECKPOINT,
    arch_option,
    combined,
    data_options,
    json_option,
    layers_option,
    output_options,
    seed_option,
    weights_option,
)
from surgeon.cli.recipes import method_settings, recipe_option
from surgeon.cli.running import run_and_show, tensorboard_option
from surgeon.cli.tuning_options import tuning_options
from surgeon.cli.unused_options import (
    NOT_WRITTEN_BY_A_DRY_RUN,
    refuse_unused,
    refuse_unused_of_data,
    refuse_unused_of_method,
    refuse_unused_of_tuning,
)
from surgeon.cli.voice import say
from surgeon.errors import OptionError

if TYPE_CHECKING:
    from surgeon.operate.stored_plan import StoredPlan

method_options = combined(
    click.option("--preserve", is_flag=True, default=None, help="channel-regeneration: keep the network's function."),
    click.option("--inhibited-only", metavar="X", help="channel-regeneration: only scales of magnitude below X."),
    click.option("--threshold", metavar="RULE", help="channel-regeneration: median, mean, max or a number."),
    click.option("--criterion", metavar="NAME", help="reinit, repr: what tells weak filters."),
    click.option("--ratio", metavar="X", help="sofm, reinit, repr, dsd: the share that is reorganized or starts anew."),
    click.option("--max-per-layer", metavar="X", help="reinit, repr: the largest share of one layer's filters."),
    click.option("--scale", metavar="X", help="repr: norm of a new filter, as a share of the kept ones' mean norm."),
    click.option("--s1", metavar="E", help="repr, dsd: epochs in full before a part is dropped."),
    click.option("--s2", metavar="E", help="repr, dsd: epochs without that part."),
    click.option("--n", metavar="N", help="repr, dsd: how often this is repeated."),
)
"""The commonest method options; each stands for `--set name=value`."""

METHOD_OPTIONS = (
    "preserve", "inhibited_only", "threshold", "criterion", "ratio", "max_per_layer", "scale", "s1", "s2", "n",
)  # fmt: skip


def open_given_plan(path: Path, method: str | None, others: Mapping[str, Any]) -> "StoredPlan":
    """Return the plan of a file.

    Args:
        path: the file.
        method: what `--method` says, which must be the plan's, or None.
        others: by name, what else the plan decides; none of it may be given.

    Raises:
        OptionError: the command line decides what the plan has decided.
        SurgeonError: the file cannot be read.
    """
    from surgeon.operate.stored_plan import open_plan

    given = [name for name, value in others.items() if value]
    if given:
        name = given[0].replace("_", "-")
        raise OptionError(
            f"The option {name} is given with --plan, and the plan has decided on it.", f"Leave {name} out."
        )
    stored = open_plan(path)
    if method not in (None, stored.plan.method):
        raise OptionError(f"The plan {path} is not one of the method {method}.", "Leave --method out.")
    return stored


@click.command(name="apply")
@click.argument("checkpoint", type=CHECKPOINT, required=False)
@click.option("--method", metavar="NAME", help="The method; `surgeon methods` lists them.")
@click.option(
    "--plan", "plan_path", type=CHECKPOINT, help="Carry out a saved plan instead; it fixes method and options."
)
@layers_option
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the method.")
@click.option("--every", type=click.IntRange(1), help="Repeat the operation every so many epochs.")
@method_options
@click.option("--partner", type=CHECKPOINT, help="A second checkpoint of the same architecture, to mix with.")
@start_options
@arch_option
@weights_option
@data_options(hold_out=0.1)
@exemplar_options
@tuning_options
@output_options
@click.option("--no-recalibrate", is_flag=True, help="Leave BatchNorm statistics as the operation made them.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan (every tensor, how many channels, what happens), measured on the images, and change nothing.",
)
@click.option("--save-plan", type=CHECKPOINT, help="With --dry-run: write the plan to this .safetensors file.")
@seed_option
@recipe_option
@tensorboard_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path | None,
    method: str | None,
    plan_path: Path | None,
    layers: tuple[str, ...],
    settings: tuple[str, ...],
    every: int | None,
    partner: Path | None,
    init: str,
    epochs: int,
    teacher: str | None,
    no_recalibrate: bool,
    dry_run: bool,
    save_plan: Path | None,
    seed: int,
    tensorboard: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Reorganize or revive channels of CHECKPOINT, fine-tune it, and write the result beside it.

    \b
    surgeon apply --method sofm --layers layer4 resnet50.safetensors --data IMAGES --epochs 3
    """
    check_argument(ctx)
    short = {name: values[name] for name in METHOD_OPTIONS} | {"every": every}
    options, changed = method_settings(ctx, settings, short)
    if save_plan is not None and not dry_run:
        raise click.UsageError("--save-plan goes with --dry-run.")
    if dry_run:
        refuse_unused(ctx, NOT_WRITTEN_BY_A_DRY_RUN, "with --dry-run, which writes nothing but a plan")
    refuse_unused_of_data(ctx, values["data"])
    # The plan of a dry run, and one without fine-tuning and recalibration, has measured what it needs.
    made = values["data"] is None and init == "checkpoint"
    if made and (plan_path is None or not (dry_run or (no_recalibrate and not epochs))):
        say(first_words(values, epochs, only_plan=dry_run))
    from surgeon.cli import render
    from surgeon.cli.live import View
    from surgeon.data.synthetic import is_synthetic
    from surgeon.operate.record import plan_dict
    from surgeon.operate.run import plan_job

    stored = None
    if plan_path is not None:
        stored = open_given_plan(plan_path, method, {**options, "layers": layers, "partner": partner})
        method, options = stored.plan.method, stored.options
    if method is None:
        raise click.UsageError("Missing option '--method' (or '--plan').")
    if is_synthetic(values["data"]):
        teacher = data_free_tuning(ctx, values, teacher)
    refuse_unused_of_tuning(ctx, values, teacher)
    refuse_unused_of_method(ctx, method)
    job = dataclasses.replace(
        tuning_job(ctx, values, teacher, changed),
        method=method,
        options=options,
        layers=layers,
        partner=partner,
        recalibrate=not no_recalibrate,
        plan=stored,
        plan_output=save_plan,
        exemplars=exemplar_job(values, seed) if values["data"] is None else None,
    )
    if dry_run:
        planned = plan_job(job, View(render.ERR).track, render.say)
        if as_json:
            render.echo(json.dumps(plan_dict(planned), indent=2, default=str))
        else:
            render.plan_table(planned)
            outcome = (
                f"the result is {job.result} and its record {job.record}" if planned.edits else "nothing is written"
            )
            render.say(f"This was a dry run. Without --dry-run {outcome}.")
        return
    run_and_show(job, as_json=as_json, tensorboard=tensorboard)
