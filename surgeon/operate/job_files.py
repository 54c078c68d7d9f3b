"""Which files a job reads, and which it writes."""

from pathlib import Path

from surgeon.checkpoint.apart import Named, check_apart, same_file
from surgeon.checkpoint.architecture import names_file, split_file
from surgeon.data.synthetic import EXEMPLARS_PREFIX
from surgeon.operate.job import Job

CONFIG = "config.json"


def inputs(job: Job) -> list[Named]:
    """Return every file that a job reads, but for its images."""
    networks = [("the checkpoint", job.checkpoint), ("the partner", job.partner)]
    if job.teacher not in (None, "original"):
        networks.append(("the teacher", Path(str(job.teacher))))
    files = [(what, path) for what, path in networks if path is not None]
    files += [(f"the {CONFIG} beside {what}", path.with_name(CONFIG)) for what, path in files if path.name]
    if job.plan is not None:
        files.append(("the plan", job.plan.path))
    files += [("the code of the network", path) for path in code_files(job.arch, job.teacher_arch)]
    return [*files, *job.also_read]


def code_files(*architectures: str | None) -> list[Path]:
    """Return the files of code that some architectures name."""
    return [split_file(one)[0] for one in architectures if one is not None and names_file(one)]


def exemplar_files(data: str | None) -> list[Named]:
    """Return the file of exemplars that `--data` names, if it does."""
    if data is None or not data.startswith(EXEMPLARS_PREFIX):
        return []
    return [("the exemplars of --data", Path(data.removeprefix(EXEMPLARS_PREFIX)))]


def outputs(job: Job) -> list[Named]:
    """Return every file that a job writes, replaces or removes, but for its states."""
    files = [("the result", job.result), ("the record", job.record), ("the best epoch's weights", job.best)]
    if job.images is None and job.exemplars is not None:
        files.append(("the exemplars", job.exemplar_file))
        if job.exemplars.pictures is not None:
            files.append(("the exemplars' pictures", job.exemplars.pictures))
    return [*files, *(("the model card", path) for path in job.reports)]


def check_files(job: Job) -> None:
    """Refuse a job that would write over what it reads, or twice in one place, whatever it may overwrite.

    Raises:
        OutputError: so it is.
    """
    read = inputs(job)
    check_apart(outputs(job), read)
    if job.plan_output is not None:
        # Then nothing else is written.
        check_apart([("the plan", job.plan_output)], read)


def is_read(job: Job, path: Path) -> bool:
    """Tell whether a file is an input."""
    return any(same_file(path, other) for _, other in inputs(job))
