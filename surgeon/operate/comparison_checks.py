"""What a comparison refuses before its first run, and what it learns of its runs by that."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.data import ImageData
from surgeon.errors import DataError, OptionError, SurgeonError
from surgeon.methods import Method, make_config
from surgeon.operate.comparison import ORIGINAL
from surgeon.operate.comparison_recipe import architecture_term, files_terms, images_term
from surgeon.operate.comparison_run import CONTROL, Run
from surgeon.operate.inputs import Say, Subject, find_method, rounds
from surgeon.operate.job import Job
from surgeon.operate.job_inputs import Opened, open_job
from surgeon.operate.job_loaders import training_loader
from surgeon.operate.phases import check_phases
from surgeon.operate.start import check_start, open_raw_images
from surgeon.processes import count
from surgeon.progress import Track, count_images
from surgeon.tuning import make_accelerator
from surgeon.tuning.freeze import untrained_names


@dataclass(frozen=True)
class Known:
    """What is known of a run before it begins.

    Attributes:
        terms: what its result depends on beside the job's own options, as JSON types.
        source: path and SHA-256 of the checkpoint; empty without one.
        arch: the network's architecture.
        data: what the images are, for the record.
        images: training images of an epoch; None where a stream does not tell.
    """

    terms: Mapping[str, Any]
    source: Mapping[str, str]
    arch: str
    data: Mapping[str, Any]
    images: int | None


def check_runs(runs: Sequence[Run], folder: Path, track: Track, say: Say) -> list[Known]:
    """Open what the runs name, once for each of their names, and refuse what no training is needed to refuse.

    The images are opened once for each seed, which decides what is held out and what a limit takes.

    Args:
        runs: of a comparison, the control among them.
        folder: where its results go.
        track: see `open_job`, likewise the next.
        say: is told the notes.

    Returns:
        What is known of the runs, in their order.

    Raises:
        SurgeonError: a run could not be done, or would not be comparable; it names the method.
    """
    if count() > 1:
        raise OptionError(
            "The runs of a comparison are single processes, and several were started for one.",
            "Start the same command several times, without a launcher: they share the runs.",
        )
    jobs: dict[str, Job] = {}
    for run in runs:
        # Nothing is written there: what is checked is the folder around it.
        beside = folder.with_name(f"{folder.name}.safetensors")
        jobs.setdefault(run.name, dataclasses.replace(run.job, output=beside, overwrite=True))
    if CONTROL not in jobs or len(jobs) == 1:
        raise OptionError("There is nothing to compare.", "Name at least one method, beside the control.")
    _check_alike(runs)
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    control = jobs.pop(CONTROL)
    check_start(control)
    accelerator = make_accelerator(control.tuning.mixed_precision, accumulate=control.tuning.accumulate)
    for name, job in jobs.items():
        with _named(name):
            _check_partner(job)
    opened = open_job(control, track, say_once)
    data = _real(opened.data)
    shared = {
        "teacher": files_terms(control)["teacher"],
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
    }
    known = {CONTROL: _known(control, opened, data, shared)}
    for name, job in jobs.items():
        with _named(name):
            of_method = open_job(dataclasses.replace(job, images=lambda model: data), track, say_once)
            _check_budget(job, of_method, track, say_once)
            known[name] = _known(job, of_method, data, shared)
    images = {control.seed: images_term(control, data, accelerator.device)}
    for run in runs:
        if run.job.seed not in images:
            drawn = _real(open_raw_images(run.job, opened.model))
            images[run.job.seed] = images_term(run.job, drawn, accelerator.device)
    return [_with_images(known[run.name], images[run.job.seed]) for run in runs]


def _with_images(known: Known, images: list[Any]) -> Known:
    return dataclasses.replace(known, terms={**known.terms, "images": images})


def _check_alike(runs: Sequence[Run]) -> None:
    """Refuse runs that would differ from the control in more than what is done to the network."""
    shared = ("checkpoint", "init", "arch", "weights", "teacher", "teacher_arch", "epochs", "batch_size", "tuning")
    controls = {run.job.seed: run.job for run in runs if run.name == CONTROL}
    if any(job.method is not None for job in controls.values()):
        raise OptionError(f"A run named {CONTROL} has a method.", "Give it another name.")
    if any(run.name == ORIGINAL for run in runs):
        raise OptionError(f"A method cannot have the name {ORIGINAL}.", "Give it another one.")
    for number, run in enumerate(runs):
        if (run.name, run.job.seed) in [(other.name, other.job.seed) for other in runs[:number]]:
            raise OptionError(
                f"There are two runs {run.name} with seed {run.job.seed}.", "Give one of them another name."
            )
        control = controls.get(run.job.seed)
        if control is None:
            raise OptionError(
                f"The run {run.name} with seed {run.job.seed} has no control.", "Give one with the same seed."
            )
        for name in shared:
            if getattr(run.job, name) != getattr(control, name):
                raise OptionError(
                    f"The run {run.name} with seed {run.job.seed} has another {name} than its control.",
                    "Give all runs of a seed the same.",
                )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of a refusal which method it is about."""
    try:
        yield
    except SurgeonError as error:
        raise type(error)(f"{name}: {error.problem}", error.remedy) from error


def _method(job: Job) -> tuple[Method, Any]:
    method = find_method(str(job.method))
    return method, make_config(method, job.options)


def _check_partner(job: Job) -> None:
    method, config = _method(job)
    if not method.needs_partner or job.partner is None or job.partner != job.checkpoint or job.init != "checkpoint":
        return
    every = getattr(config, "every", None)
    if every is None or every >= job.epochs:
        raise OptionError(
            "A network that is mixed with itself stays as it is.",
            f"Name another checkpoint with --partner, or train a copy along: --set {method.name}.every=1, with more "
            "epochs than that.",
        )


def _check_budget(job: Job, opened: Opened, track: Track, say: Say) -> None:
    """Refuse a method that trains longer than the control, or has no part of the epochs to work in."""
    method, config = _method(job)
    assert opened.graph is not None
    targets = rounds(method, opened.graph, job.layers)
    if len(targets) > 1:
        raise OptionError(
            f"It fine-tunes after each of {len(targets)} modules, {len(targets)} times as long as the control.",
            "Name one module with --layers.",
        )
    frozen = untrained_names(opened.model, job.tuning.freeze)
    device = make_accelerator(job.tuning.mixed_precision).device
    subject = Subject(opened.model, method, config, opened.graph, None, device, track, say, frozen)
    check_phases(subject, targets, job.epochs)


def _real(data: ImageData | None) -> ImageData:
    # Without images the control was refused already.
    assert data is not None
    if not data.real:
        raise DataError(
            f"The labels of {data.name} are nobody's judgement, so right answers on it compare nothing.",
            "Name real images with --data.",
        )
    return data


def _known(job: Job, opened: Opened, data: ImageData, shared: Mapping[str, Any]) -> Known:
    architecture = vars(opened.model)["surgeon_architecture"]
    terms = {
        **shared,
        "checkpoint": opened.source.get("sha256"),
        "arch": architecture_term(architecture),
        "options": None if job.method is None else vars(_method(job)[1]),
        "partner": opened.partner_file.get("sha256"),
    }
    images = count_images(training_loader(job, opened.model, data))
    return Known(terms, opened.source, str(architecture), {"name": data.name, **data.source}, images)
