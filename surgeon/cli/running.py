"""What every command that writes a checkpoint does: run the job, and show how it goes and what came of it."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from surgeon.cli.options import CHECKPOINT
from surgeon.errors import OptionError

if TYPE_CHECKING:
    from surgeon.cli.events import Events
    from surgeon.operate.job import Job
    from surgeon.operate.record import Stage
    from surgeon.tuning import EpochRecord

tensorboard_option = click.option(
    "--tensorboard", type=CHECKPOINT, metavar="DIR", help="Write the figures to this directory as TensorBoard's events."
)


def run_and_show(job: Job, *, as_json: bool, tensorboard: Path | None, last: bool = True) -> None:
    """Run a job, show its stages and epochs as they end, and print the record, or where it is.

    Args:
        job: what to do.
        as_json: print the record to stdout, and everything else to stderr.
        tensorboard: directory for events, or None.
        last: the command does nothing after it; of several jobs, stdout has the record of the last one alone.

    Raises:
        OptionError: events are wanted, and the package tensorboard is missing.
        SurgeonError: see `run_job`.
    """
    from surgeon.cli import render
    from surgeon.cli.live import View
    from surgeon.operate.run import run_job
    from surgeon.processes import count

    view = View(render.ERR)
    with ExitStack() as stack:
        events = None if tensorboard is None else stack.enter_context(closing(_events(job, tensorboard)))

        def on_stage(stage: Stage) -> None:
            render.stage_line(stage)
            if events is not None:
                events.stage(stage)

        def on_epoch(record: EpochRecord) -> None:
            view.epoch(record)
            if events is not None:
                events.epoch(record)

        def on_resume(epochs: int) -> None:
            if events is not None:
                events.resume(epochs)

        try:
            record = run_job(
                job, track=view.track, on_stage=on_stage, on_epoch=on_epoch, say=render.say, on_resume=on_resume
            )
        except KeyboardInterrupt:
            if job.states is not None and job.states.holds_state:
                # What launched several processes is not known here.
                alone = count() == 1
                end = ":" if alone else "."
                render.say(f"The run's state is kept in {job.states.path}. The same command continues it{end}")
                if alone:
                    render.say(shlex.join(["surgeon", *sys.argv[1:]]))
            raise
    render.record_table(record, to_stderr=as_json)
    if as_json and last:
        render.echo(record.to_json().rstrip())
    elif not as_json:
        render.echo("\n".join(str(path) for path in (job.result, job.record, *job.reports)))


def _events(job: Job, directory: Path) -> Events:
    from surgeon.cli import render

    try:
        from surgeon.cli.events import Events
    except ImportError as error:
        raise OptionError(
            "--tensorboard needs the package tensorboard, which is not installed.",
            "Install it with `pip install tensorboard`, or leave --tensorboard out.",
        ) from error
    asked = {"method": job.method, "options": dict(job.options), "layers": job.layers, "teacher": job.teacher}
    files = {"checkpoint": job.checkpoint, "init": job.init, "output": job.result, "batch_size": job.batch_size}
    return Events(directory, {**files, **asked, "tuning": dataclasses.asdict(job.tuning)}, render.say)
