"""Born-again networks: every generation begins with random weights and has the one before as its teacher.

Source: Furlanello et al., Born Again Neural Networks, ICML 2018, section 3.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from surgeon.checkpoint.safetensors_file import read_header
from surgeon.errors import CheckpointError, OptionError
from surgeon.operate.inputs import Say
from surgeon.operate.job import Job
from surgeon.operate.job_checks import check_outputs
from surgeon.operate.run import HARMLESS, NOT_OF_THE_RESULT
from surgeon.operate.several import main_decides
from surgeon.operate.told import parse_told, read_told
from surgeon.tuning import make_accelerator
from surgeon.tuning.generators import derived_seed


def generations(job: Job, count: int) -> tuple[Job, ...]:
    """Return the jobs of all generations in their order, of which the last one's result is the job's.

    The first learns from the job's teacher. Each has a seed of its own, which the job's decides: a checkpoint that was
    trained from scratch with the job's seed would otherwise teach a network that begins with the very weights that it
    began with. Whatever opens the images keeps its seed, so that all generations are held against the same ones.

    Args:
        job: fine-tunes a network that begins with random weights, and has a teacher.
        count: number of generations, at least 1.

    Raises:
        OptionError: there are no generations, or nothing is handed from one to the next.
    """
    if count < 1:
        raise OptionError(f"{count} generations are none.", "Give --generations 1 or more.")
    if job.init != "random" or job.teacher is None:
        raise OptionError(
            "Generations begin with random weights and learn from a teacher, the first from that of the command line.",
            "Give --init random and --teacher original, or --teacher CKPT.",
        )
    jobs: list[Job] = []
    for number in range(1, count + 1):
        taught = dataclasses.replace(job, seed=derived_seed(job.seed, number))
        if jobs:
            taught = dataclasses.replace(taught, teacher=str(jobs[-1].result), teacher_arch=None)
        jobs.append(_generation(taught, number, count, job.result))
    return tuple(jobs)


def unfinished(jobs: tuple[Job, ...], say: Say) -> tuple[Job, ...]:
    """Return the generations that are still to be trained: those after the last one whose result is there.

    The main process looks, and the others hear of it.

    Args:
        jobs: what `generations` has returned.
        say: is told which results are used.

    Raises:
        OutputError: a result could not be written, which is better known before the first generation is trained.
    """
    # The processes have to know of each other.
    make_accelerator(jobs[0].tuning.mixed_precision, accumulate=jobs[0].tuning.accumulate)

    def decide() -> int:
        done = max((number for number, job in enumerate(jobs[:-1], start=1) if _is_finished(job)), default=0)
        for job in jobs[done:]:
            check_outputs(job)
        return done

    done = main_decides(decide)
    if done:
        say(f"Generation {done} is finished, in {jobs[done - 1].result}, and is used; --restart trains it anew.")
    return jobs[done:]


def _generation(job: Job, number: int, count: int, last: Path) -> Job:
    """Return the job of one generation, whose recipe is that of so many generations: it does the same again."""
    note = f"This is generation {number} of {count}, with the seed {job.seed}; its teacher is {job.teacher}."
    return dataclasses.replace(
        job,
        output=last if number == count else last.with_name(f"{last.stem}-generation{number}{last.suffix}"),
        recipe={**job.recipe, "generations": number} if job.recipe else {},
        notes=(*job.notes, note),
        reports=job.reports if number == count else {},
    )


def _is_finished(job: Job) -> bool:
    """Tell whether a job's result is there with its record, from the same checkpoint and by the same recipe."""
    if job.restart or not job.recipe:
        return False
    try:
        record = read_told(job.record)
        core = parse_told(read_header(job.result).metadata["surgeon"])
        belongs = {name: record[name] for name in core} == core
        same = _asked(record["recipe"], job) == _asked(json.loads(json.dumps(job.recipe, default=str)), job)
        return belongs and same and record["seed"] == job.seed and record["checkpoint"].get("sha256") == _sha256(job)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, CheckpointError):
        return False


def _asked(recipe: dict[str, Any], job: Job) -> dict[str, Any]:
    """Return what of a recipe the result depends on, as far as it may not have changed since."""
    passed_over = NOT_OF_THE_RESULT if job.resume_changed else HARMLESS
    return {name: value for name, value in recipe.items() if name not in passed_over}


def _sha256(job: Job) -> str | None:
    if job.checkpoint is None:
        return None
    with job.checkpoint.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
