"""A job on files is opened: everything that it names is read and found fit for it, the cheapest checks first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from surgeon.checkpoint import Checkpoint, open_checkpoint
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import ImageData, check_classes
from surgeon.data.image_data import EXEMPLARS
from surgeon.errors import CheckpointError, PlanError
from surgeon.methods import make_config
from surgeon.operate.data_free import plan_needs_images, surely_needs_images
from surgeon.operate.images import check_input, trace_for_images
from surgeon.operate.inputs import Say, find_method, num_outputs, rounds
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.job_checks import (
    check_count,
    check_exemplars,
    check_fine_tuning,
    check_foreign,
    check_method,
    check_outputs,
    check_tuning,
)
from surgeon.operate.job_loaders import leaves_single_image
from surgeon.operate.make_exemplars import Making, make_exemplars, prepare_exemplars
from surgeon.operate.replay import rehearse
from surgeon.operate.several import batch_notes
from surgeon.progress import Track


@dataclass(frozen=True)
class Opened:
    """Everything that a job names, opened and found fit for it.

    Attributes:
        model: the checkpoint's network.
        checkpoint: what was read.
        graph: its coupling graph; None where nothing is operated on.
        teacher: `original`, a network, or None.
        reference: the network that the answers are compared with; None for the checkpoint's own as it came.
        partner: the second network, or None.
        partner_file: path and SHA-256 of its file, or nothing.
        data: the images; None where there are none.
        notes: what a reader of the results should know.
    """

    model: nn.Module
    checkpoint: Checkpoint
    graph: CouplingGraph | None
    teacher: nn.Module | str | None
    reference: nn.Module | None
    partner: nn.Module | None
    partner_file: Mapping[str, str]
    data: ImageData | None
    notes: tuple[str, ...]


def open_job(job: Job, track: Track, say: Say, *, only_plan: bool = False) -> Opened:
    """Open everything that a job names, the cheapest checks first and the images last.

    Args:
        job: what to do.
        track: is told of every step of making exemplars, where there are no images.
        say: is told the notes, and how long exemplars take.
        only_plan: the job is only planned, so nothing is written.

    Raises:
        SurgeonError: one of its inputs cannot be used.
    """
    if job.method is None:
        check_fine_tuning(job)
    else:
        check_method(job, job.method)
    check_outputs(job)
    model, checkpoint = open_checkpoint(job.checkpoint, job.arch, job.weights)
    check_tuning(job, model)
    making, undecided = _making(job, model, only_plan)
    graph = _graph(job, model)
    teacher, taught_by = _teacher(job)
    partner, partner_file, partner_notes = _partner(job, model)
    data = _open_images(job, model)
    if undecided is not None and plan_needs_images(job, model, graph, partner):
        making = _prepared(job, undecided, model)
    if making is not None:
        data = make_exemplars(job, making, model, graph, checkpoint, keep=not only_plan, track=track, say=say)
    if data is not None:
        check_count(job, model, data)
    notes = (*job.notes, *checkpoint.notes, *_precision_notes(checkpoint, model), *partner_notes)
    notes += () if taught_by is None else taught_by.notes
    reference = None
    if data is not None:
        notes += (*data.notes, *data.training_notes, *_batch_notes(job, model, data))
        if data.source.get("checkpoint_sha256", checkpoint.sha256) != checkpoint.sha256:
            if not only_plan:
                check_foreign(data, checkpoint, taught_by)
            reference = teacher if isinstance(teacher, nn.Module) else None
            notes += (_foreign_note(data, checkpoint, taught_by),)
    if job.plan is not None:
        notes += job.plan.notes
    if not only_plan:
        notes += (*_unused_notes(job, data),)
    for note in notes:
        say(note)
    return Opened(model, checkpoint, graph, teacher, reference, partner, partner_file, data, notes)


def _making(job: Job, model: nn.Module, only_plan: bool) -> tuple[Making | None, ExemplarJob | None]:
    """Return what exemplars will be made, or which ones would be where only the plan tells whether they are needed.

    A network that none can be made from is refused by that, and not by what else may be wrong with it.
    """
    if job.images is not None or job.exemplars is None:
        return None, None
    needed = surely_needs_images(job, model, only_plan)
    making = _prepared(job, job.exemplars, model) if needed else None
    return making, job.exemplars if needed is None else None


def _prepared(job: Job, wanted: ExemplarJob, model: nn.Module) -> Making:
    check_exemplars(job, model, wanted)
    return prepare_exemplars(job, wanted, model)


def _graph(job: Job, model: nn.Module) -> CouplingGraph | None:
    """Check that the network takes the images, and return its coupling graph if the job operates on it, as it can."""
    if job.method is None:
        check_input(model, job.example(model))
        return None
    graph = trace_for_images(model, job.example(model))
    if job.plan is None:
        rounds(find_method(job.method), graph, job.layers)
    else:
        rehearse(model, job.plan)
    return graph


def _open_images(job: Job, model: nn.Module) -> ImageData | None:
    if job.images is None:
        return None
    with PartialState().local_main_process_first():
        # What has to be fetched or unpacked is then done once on every machine.
        data = job.images(model)
    check_classes(data, num_outputs(model))
    if data.source["kind"] == EXEMPLARS:
        images = torch.zeros(1, job.example(model).shape[1], *data.source["size"])
        check_input(model, images, "Give exemplars that were made in a size that it takes.")
    return data


def _teacher(job: Job) -> tuple[nn.Module | str | None, Checkpoint | None]:
    """Return the teacher, and its file where it has one of its own."""
    if job.teacher is None or job.teacher == "original":
        return job.teacher, None
    return open_checkpoint(Path(job.teacher), job.arch)


def _partner(job: Job, model: nn.Module) -> tuple[nn.Module | None, dict[str, str], tuple[str, ...]]:
    """Return the second network, which has the first one's architecture, its file, and notes about that."""
    if job.partner is None:
        return None, {}, ()
    try:
        partner, checkpoint = open_checkpoint(job.partner, str(model.surgeon_architecture))
    except CheckpointError as error:
        raise PlanError(
            f"The partner does not fit the network. {error.problem}",
            "Give a checkpoint of the same architecture, with the same classes.",
        ) from error
    return partner, {"path": str(job.partner), "sha256": checkpoint.sha256}, checkpoint.notes


def _precision_notes(checkpoint: Checkpoint, model: nn.Module) -> list[str]:
    """Return a note where the result's weights are not of the file's type.

    They stay as they were computed: the record's figures are theirs, and rounding them again could overflow.
    """
    stored, own = (
        {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()}
        for tensors in (checkpoint.tensors, model.state_dict())
    )
    if stored <= own:
        return []
    return [
        f"{checkpoint.path} stores weights in {' and '.join(sorted(stored - own))}; they are computed with and written "
        f"in {' and '.join(sorted(own))}, which loads into a network of either."
    ]


def _foreign_note(data: ImageData, checkpoint: Checkpoint, teacher: Checkpoint | None) -> str:
    made = f"The data {data.name} was synthesized from another checkpoint than {checkpoint.path}"
    if teacher is None:
        return f"{made}."
    return f"{made}: agreement and drift are measured against that one, which is the teacher {teacher.path}."


def _unused_notes(job: Job, data: ImageData | None) -> Iterator[str]:
    """Yield a note for everything that was asked for and will not happen."""
    if data is None and job.exemplars is not None and job.exemplars.pictures is not None:
        yield f"Nothing needs images, so no exemplars are made and none are written to {job.exemplars.pictures}."
    if job.plan is None and job.method is not None and job.options.get("every") is not None:
        every = getattr(make_config(find_method(job.method), job.options), "every", None)
        if every is not None and every >= job.epochs:
            yield f"The operation is not repeated: it would be every {every} epochs, and there are {job.epochs}."


def _batch_notes(job: Job, model: nn.Module, data: ImageData) -> list[str]:
    notes = list(batch_notes(job.batch_size)) if job.epochs else []
    if not leaves_single_image(job, model, data):
        return notes
    return [
        *notes,
        "One image is left out of every epoch, another each time: it would be a batch alone, unfit for BatchNorm.",
    ]
