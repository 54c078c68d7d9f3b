"""A run that other processes began: how it goes on in as many as there are now."""

import dataclasses

from surgeon.errors import OptionError
from surgeon.operate.job import Job
from surgeon.operate.several import main_decides
from surgeon.processes import count


def as_begun(job: Job) -> Job:
    """Return a job whose batches make, of all processes together, those of the run that it goes on with.

    So the same command goes on in another number of processes; whether it may is decided where its state is read.

    Args:
        job: the same in all processes.

    Raises:
        OptionError: the images of one batch cannot be shared out evenly among the processes that there are now.
    """
    states = job.states
    if states is None or job.restart:
        return job

    def decide() -> int:
        terms = states.terms
        before, own = terms.get("processes"), terms.get("batch_size")
        known = isinstance(before, int) and before > 0
        if not known or before == count() or own != job.batch_size:
            return job.batch_size
        together = before * own
        if together % count():
            raise OptionError(
                f"The run in {states.path} was begun by {before} processes with batches of {own}, and {count()} "
                f"cannot share {together} images evenly.",
                f"Start as many processes as {together} can be divided by, or begin anew with --restart.",
            )
        return together // count()

    return dataclasses.replace(job, batch_size=main_decides(decide))
