"""A job on files is opened: everything that it names is read and found fit for it, the cheapest checks first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from surgeon.checkpoint import Checkpoint, open_checkpoint
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import ImageData, check_classes
from surgeon.data.image_data import EXEMPLARS
from surgeon.errors import ArchitectureError, CheckpointError, PlanError
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
    schedule_notes,
)
from surgeon.operate.job_loaders import leaves_single_image
from surgeon.operate.make_exemplars import Making, make_exemplars, prepare_exemplars
from surgeon.operate.replay import rehearse
from surgeon.operate.several import batch_notes
from surgeon.operate.start import Start, open_raw_images, open_start, random_partner, start_notes
from surgeon.progress import Track
from surgeon.structure import structure_of


@dataclass(frozen=True)
class Opened:
    """Everything that a job names, opened and found fit for it.

    Attributes:
        model: the network that the job works on.
        checkpoint: what was read; None without a checkpoint.
        graph: its coupling graph; None where nothing is operated on.
        teacher: `original`, a network, or None.
        reference: the network that the answers are compared with; None for the job's own as it came.
        partner: the second network, or None.
        partner_file: path and SHA-256 of its file, or nothing.
        data: the images; None where there are none.
        notes: what a reader of the results should know.
    """

    model: nn.Module
    checkpoint: Checkpoint | None
    graph: CouplingGraph | None
    teacher: nn.Module | str | None
    reference: nn.Module | None
    partner: nn.Module | None
    partner_file: Mapping[str, str]
    data: ImageData | None
    notes: tuple[str, ...]

    @property
    def source(self) -> dict[str, str]:
        """Path and SHA-256 of the checkpoint's file; nothing without one."""
        return {} if self.checkpoint is None else {"path": str(self.checkpoint.path), "sha256": self.checkpoint.sha256}

    @property
    def compared(self) -> bool:
        """Whether there are answers to compare the network's with; those of random weights mean nothing."""
        return self.checkpoint is not None or self.reference is not None


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
        check_method(job, job.method, only_plan=only_plan)
    check_outputs(job)
    start = open_start(job)
    model, checkpoint = start.model, start.checkpoint
    check_tuning(job, model)
    making, undecided = _making(job, model, only_plan)
    graph = _graph(job, model)
    teacher, taught_by = _teacher(job, start)
    partner, partner_file, partner_notes = _partner(job, model)
    data = _open_images(job, start)
    if undecided is not None and plan_needs_images(job, model, graph, partner):
        making = _prepared(job, undecided, model)
    if making is not None:
        # Without a checkpoint there are images; see `check_start`.
        assert checkpoint is not None
        data = make_exemplars(job, making, model, graph, checkpoint, keep=not only_plan, track=track, say=say)
    if data is not None:
        check_count(job, model, data)
    reference, against = _reference(start, data, teacher, taught_by)
    notes = (*job.notes, *start.notes, *start_notes(job, against), *partner_notes)
    notes += () if taught_by is None else taught_by.notes
    if data is not None:
        notes += (*data.notes, *data.training_notes, *_batch_notes(job, model, data))
        if _is_foreign(data, checkpoint):
            network = "the random weights" if checkpoint is None else str(checkpoint.path)
            if not only_plan:
                check_foreign(data, network, taught_by)
            notes += (_foreign_note(data, network, taught_by),)
    if job.plan is not None:
        notes += job.plan.notes
    notes += schedule_notes(job) if only_plan else ()
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


def _open_images(job: Job, start: Start) -> ImageData | None:
    model = start.model
    data = start.data if start.data is not None else open_raw_images(job, model)
    if data is None:
        return None
    check_classes(data, num_outputs(model))
    if data.source["kind"] == EXEMPLARS:
        images = torch.zeros(1, job.example(model).shape[1], *data.source["size"])
        check_input(model, images, "Give exemplars that were made in a size that it takes.")
    return data


def _teacher(job: Job, start: Start) -> tuple[nn.Module | str | None, Checkpoint | None]:
    """Return the teacher, and its file where it has one of its own."""
    if job.teacher == "original" and start.original is not None:
        return start.original, None
    if job.teacher is None or job.teacher == "original":
        return job.teacher, None
    try:
        return open_checkpoint(Path(job.teacher), job.teacher_arch or job.arch)
    except (ArchitectureError, CheckpointError) as error:
        remedy = error.remedy.replace("--arch", "--teacher-arch")
        raise type(error)(f"The teacher cannot be opened. {error.problem}", remedy) from error


def _reference(
    start: Start, data: ImageData | None, teacher: nn.Module | str | None, taught_by: Checkpoint | None
) -> tuple[nn.Module | None, str | None]:
    """Return the network that answers are compared with, where it is not the job's own as it came, and its file.

    On images that nobody took, the answers that are learnt are the only measure: those of what they were made from.
    """
    foreign = data is not None and _is_foreign(data, start.checkpoint)
    unmeasured = data is not None and not data.real and start.checkpoint is None
    if foreign or unmeasured:
        if taught_by is None or not isinstance(teacher, nn.Module):
            return None, None
        return teacher, str(taught_by.path)
    if start.original is None or start.checkpoint is None:
        return None, None
    return start.original, str(start.checkpoint.path)


def _is_foreign(data: ImageData, checkpoint: Checkpoint | None) -> bool:
    """Tell whether images are exemplars that were made from another checkpoint than the network's."""
    own = None if checkpoint is None else checkpoint.sha256
    return data.source.get("checkpoint_sha256", own) != own


def _partner(job: Job, model: nn.Module) -> tuple[nn.Module | None, dict[str, str], tuple[str, ...]]:
    """Return the second network, which has the first one's architecture, its file if it has one, and notes about it."""
    if job.partner is None:
        mixes = job.method is not None and job.plan is None and find_method(job.method).needs_partner
        if job.init == "checkpoint" or not mixes:
            return None, {}, ()
        return random_partner(job, model), {}, ("The partner starts from random weights too, other ones.",)
    try:
        partner, checkpoint = open_checkpoint(job.partner, str(model.surgeon_architecture))
    except CheckpointError as error:
        raise PlanError(
            f"The partner does not fit the network. {error.problem}",
            "Give a checkpoint of the same architecture, with the same classes.",
        ) from error
    if structure_of(partner) != structure_of(model):
        raise PlanError(
            f"The partner {job.partner} has layers of other sizes than the network, or other cross-attention.",
            "Give a checkpoint of a network that was resized in the same way.",
        )
    return partner, {"path": str(job.partner), "sha256": checkpoint.sha256}, checkpoint.notes


def _foreign_note(data: ImageData, network: str, teacher: Checkpoint | None) -> str:
    made = f"The data {data.name} was synthesized from another checkpoint than {network}"
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
