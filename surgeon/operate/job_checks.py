"""What can be refused of a job on files before any work is done."""

from pathlib import Path

from torch import nn

from surgeon.checkpoint import Checkpoint, refuse_existing
from surgeon.data import ImageData
from surgeon.errors import DataError, OptionError, OutputError
from surgeon.methods import make_config
from surgeon.operate.inputs import find_method
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.job_files import check_files
from surgeon.operate.job_loaders import loader, trains_batch_norm
from surgeon.processes import count
from surgeon.progress import count_images
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.mixing import check_mixable
from surgeon.tuning.modes import frozen_parameters
from surgeon.tuning.optimizer import create_optimizer
from surgeon.tuning.schedule import create_schedule


def check_fine_tuning(job: Job) -> None:
    if job.images is None:
        raise DataError(
            "There are no images to fine-tune on.",
            "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
        )
    if job.epochs == 0:
        raise OptionError("No epoch of fine-tuning is asked for.", "Give --epochs 1 or more.")


def check_method(job: Job, name: str, *, only_plan: bool = False) -> None:
    method = find_method(name)
    config = make_config(method, job.options)
    if method.phases is not None and job.plan is None:
        if not only_plan:
            method.phases(config, job.epochs)
        if job.plan_output is not None:
            raise OptionError(
                f"The plan of {name} is one step of its schedule, and could not be carried out by itself.",
                "Leave --save-plan out.",
            )
    wanted = method.measures(config)
    if job.plan is not None:
        # Whatever it was measured on, or mixed with, is in it.
        return
    if wanted is not None and not job.has_images:
        raise DataError(
            f"The method {name} measures {wanted} on labelled images, and there are none.",
            "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
        )
    if method.needs_partner and job.partner is None and job.init == "checkpoint":
        raise OptionError(f"The method {name} mixes two networks and was given one.", "Name the other with --partner.")
    if job.partner is not None and not method.needs_partner:
        raise OptionError(f"The method {name} takes no partner.", "Leave --partner out.")


def schedule_notes(job: Job) -> tuple[str, ...]:
    """Return the note that a job which is only planned would be refused for want of epochs, if it would be."""
    method = None if job.method is None or job.plan is not None else find_method(job.method)
    if method is None or method.phases is None:
        return ()
    try:
        method.phases(make_config(method, job.options), job.epochs)
    except OptionError as error:
        return (f"Carried out, this would be refused: {error}",)
    return ()


def check_outputs(job: Job) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises:
        OutputError: a path exists, is an input or another output, or is not for .safetensors.
    """
    _check_suffix(job.result, "-o")
    check_files(job)
    for path in (job.result, job.record, job.best, *job.reports):
        refuse_existing(path, job.may_replace(path))
    if job.plan_output is not None:
        _check_suffix(job.plan_output, "--save-plan")
        refuse_existing(job.plan_output, job.overwrite)


def _check_suffix(path: Path, option: str) -> None:
    if path.suffix.lower() != ".safetensors":
        raise OutputError(
            f"The output {path} has the suffix {path.suffix or '(none)'}, and results are safetensors.",
            f"Give a name that ends in .safetensors with {option}.",
        )


def check_tuning(job: Job, model: nn.Module) -> None:
    """Refuse what cannot be frozen, optimized or scheduled, and batches too small, before any work is done."""
    if trains_batch_norm(job, model) and job.batch_size * count() == 1:
        raise OptionError(
            "The network has BatchNorm, whose statistics are those of a batch, and --batch-size 1 gives it one image.",
            "Give a larger --batch-size.",
        )
    check_mixable(job.tuning, job.batch_size)
    frozen = frozen_names(model, job.tuning.freeze)
    if job.has_images and job.epochs:
        with frozen_parameters(model, frozen):
            create_schedule(create_optimizer(model, job.tuning), job.tuning, 1)


def check_exemplars(job: Job, model: nn.Module, wanted: ExemplarJob) -> None:
    """Refuse exemplars that are too few, before they are made."""
    if wanted.config.count == 1 and trains_batch_norm(job, model):
        raise OptionError(
            "The network has BatchNorm, whose statistics are those of several images, and --exemplars 1 makes one.",
            "Give --exemplars 2 or more.",
        )


def check_foreign(data: ImageData, network: str, teacher: Checkpoint | None) -> None:
    """Refuse exemplars of another network that does not teach: an edited one would learn from what is wrong with it.

    Args:
        data: exemplars that were made from another checkpoint than the network's.
        network: what the network's weights are those of, in words.
        teacher: what the teacher was read from, or None where that is the network as it came.

    Raises:
        DataError: the teacher is not the network that they were made from.
    """
    digest = data.source["checkpoint_sha256"]
    remedy = f"Name the checkpoint that they were made from: --teacher CKPT, whose SHA-256 begins with {digest[:12]}."
    if teacher is None:
        raise DataError(
            f"The data {data.name} was synthesized from another checkpoint than {network}, which would be its own "
            "teacher and its own measure.",
            remedy,
        )
    if teacher.sha256 != digest:
        raise DataError(
            f"The data {data.name} was synthesized from another checkpoint than the teacher {teacher.path}.", remedy
        )


def check_count(job: Job, model: nn.Module, data: ImageData) -> None:
    if trains_batch_norm(job, model) and count_images(loader(job, data.train)) == 1:
        raise DataError(
            f"The data {data.name} leaves one training image, and BatchNorm cannot be trained on one.",
            "Give more images, or a larger --limit.",
        )
