"""What every command that writes a checkpoint does: run the job, and show how it goes and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgeon.operate.job import Job


def run_and_show(job: Job, *, as_json: bool) -> None:
    """Run a job, show its stages and epochs as they end, and print the record, or where it is.

    Args:
        job: what to do.
        as_json: print the record to stdout, and everything else to stderr.

    Raises:
        SurgeonError: see `run_job`.
    """
    from surgeon.cli import render
    from surgeon.operate.run import run_job

    record = run_job(job, track=render.progress, on_stage=render.stage_line, on_epoch=render.epoch_line, say=render.say)
    render.record_table(record, to_stderr=as_json)
    if as_json:
        render.echo(record.to_json().rstrip())
    else:
        render.echo(f"{job.result}\n{job.record}")
