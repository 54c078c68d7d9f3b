"""A job on files: what it consists of, and everything that can be refused before any work is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader

from surgeon.checkpoint import Checkpoint, open_checkpoint, refuse_existing
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import ImageData, check_classes, make_loader
from surgeon.data.exemplars import SUFFIX as EXEMPLARS_SUFFIX
from surgeon.data.pictures import check_folder
from surgeon.errors import CheckpointError, DataError, OptionError, OutputError, PlanError
from surgeon.methods import make_config
from surgeon.operate.data_free import ExemplarJob, make_exemplars, needs_images
from surgeon.operate.images import check_input, trace_for_images
from surgeon.operate.inputs import Say, find_method, num_outputs, rounds
from surgeon.operate.replay import rehearse
from surgeon.operate.several import batch_notes
from surgeon.operate.states import StateFolder
from surgeon.operate.stored_plan import StoredPlan
from surgeon.processes import count
from surgeon.progress import Track
from surgeon.tuning import TuningConfig
from surgeon.tuning.config import Switch
from surgeon.tuning.evaluate import count_images
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.mixing import check_mixable
from surgeon.tuning.modes import frozen_parameters, has_batch_norm
from surgeon.tuning.optimizer import create_optimizer
from surgeon.tuning.schedule import create_schedule

OpenImages = Callable[[nn.Module], ImageData]


@dataclass(frozen=True)
class Job:
    """What to do with one checkpoint file.

    Attributes:
        checkpoint: path of the input, which is never written to.
        method: name of the method; None fine-tunes and operates on nothing.
        options: its options, as text or values.
        layers: module names and globs.
        arch: the architecture as the user gave it, or None.
        images: opens the data set for a network; None where there are no images.
        example: gives an input of the size that the network takes, for tracing.
        output: path of the result; where it is None, `<stem>-<method>.safetensors` beside the input, or
            `<stem>-finetuned.safetensors` without a method.
        overwrite: replace outputs that exist.
        epochs: epochs of fine-tuning.
        tuning: its other options.
        teacher: `original`, the path of a checkpoint of the same architecture, or None.
        partner: path of a second checkpoint of the same architecture, for methods that mix two.
        recalibrate: measure BatchNorm statistics anew after the operation.
        seed: seed of everything random.
        batch_size: images a batch.
        workers: processes that read images.
        device_data: keep the decoded images on the device: "yes", "no", or "auto", which is on GPUs where they are few
            and varied in a way that the device knows.
        weights: the key of the weights to take where the checkpoint holds several, or None.
        recipe: the options of the command line that ask for this job, by name; it goes into the record.
        plan: a plan to carry out in place of one of `method`, whose name and options are the plan's; or None.
        plan_output: where a dry run writes its plan, or None.
        exemplars: what is made from the checkpoint where images are needed and `images` is None; or None for nothing.
        save_every: updates of the weights between two states of the run within an epoch; None for none there.
        restart: begin anew, even where an interrupted run of the same job could be continued.
    """

    checkpoint: Path
    method: str | None
    options: Mapping[str, Any]
    layers: tuple[str, ...]
    arch: str | None
    images: OpenImages | None
    example: Callable[[nn.Module], torch.Tensor]
    output: Path | None
    overwrite: bool
    epochs: int
    tuning: TuningConfig
    teacher: str | None
    partner: Path | None
    recalibrate: bool
    seed: int
    batch_size: int
    workers: int
    device_data: Switch = "auto"
    weights: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    plan: StoredPlan | None = None
    plan_output: Path | None = None
    exemplars: ExemplarJob | None = None
    save_every: int | None = None
    restart: bool = False

    @property
    def result(self) -> Path:
        """Where the fine-tuned network goes."""
        return self.output or self.checkpoint.with_name(
            f"{self.checkpoint.stem}-{self.method or 'finetuned'}.safetensors"
        )

    @property
    def best(self) -> Path:
        """Where the best epoch's weights go, if it is not the last."""
        return self.result.with_name(f"{self.result.stem}-best.safetensors")

    @property
    def record(self) -> Path:
        """Where the record goes."""
        return self.result.with_suffix(".json")

    @property
    def exemplar_file(self) -> Path:
        """Where the exemplars go that are made for want of images."""
        return self.result.with_name(f"{self.result.stem}{EXEMPLARS_SUFFIX}")

    @property
    def states(self) -> StateFolder | None:
        """What keeps the states of the run until it has ended; None where nothing is fine-tuned."""
        if not self.has_images or not self.epochs:
            return None
        return StateFolder(self.result.with_name(f"{self.result.stem}.state"))

    def may_replace(self, path: Path) -> bool:
        """Tell whether an output may be replaced: it is allowed, or an interrupted run of this job has written it."""
        return self.overwrite or (self.states is not None and self.states.announced(path))

    @property
    def has_images(self) -> bool:
        """Whether there are images, or some will be made where they are needed."""
        return self.images is not None or self.exemplars is not None


@dataclass(frozen=True)
class Opened:
    """Everything that a job names, opened and found fit for it.

    Attributes:
        model: the checkpoint's network.
        checkpoint: what was read.
        graph: its coupling graph; None where nothing is operated on.
        teacher: `original`, a network, or None.
        partner: the second network, or None.
        partner_file: path and SHA-256 of its file, or nothing.
        data: the images; None where there are none.
        notes: what a reader of the results should know.
    """

    model: nn.Module
    checkpoint: Checkpoint
    graph: CouplingGraph | None
    teacher: nn.Module | str | None
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
        _check_fine_tuning(job)
    else:
        _check_method(job, job.method)
    _check_outputs(job)
    model, checkpoint = open_checkpoint(job.checkpoint, job.arch, job.weights)
    _check_tuning(job, model)
    graph = _graph(job, model)
    teacher, teacher_notes = _teacher(job)
    partner, partner_file, partner_notes = _partner(job, model)
    data = _open_images(job, model)
    if data is None and job.exemplars is not None and needs_images(job, model, graph, partner, only_plan):
        data = make_exemplars(job, job.exemplars, model, checkpoint, keep=not only_plan, track=track, say=say)
    if data is not None:
        _check_count(job, model, data)
    notes = (*checkpoint.notes, *_precision_notes(checkpoint, model), *teacher_notes, *partner_notes)
    if data is not None:
        notes += (*data.notes, *data.training_notes, *_batch_notes(job, model, data), *_foreign_notes(data, checkpoint))
    if job.plan is not None:
        notes += job.plan.notes
    for note in notes:
        say(note)
    return Opened(model, checkpoint, graph, teacher, partner, partner_file, data, notes)


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


def _check_outputs(job: Job) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises:
        OutputError: a path exists, is the input, or is not for .safetensors.
    """
    _check_suffix(job.result, "-o")
    if job.result.resolve() == job.checkpoint.resolve():
        raise OutputError(f"The output {job.result} is the input itself.", "Give another name with -o.")
    if job.plan is not None and job.plan.path.resolve() in (job.result.resolve(), job.best.resolve()):
        raise OutputError(f"The output {job.result} would replace the plan.", "Give another name with -o.")
    for path in (job.result, job.record, job.best):
        refuse_existing(path, job.may_replace(path))
    if job.exemplars is not None:
        refuse_existing(job.exemplar_file, job.may_replace(job.exemplar_file))
        if job.exemplars.pictures is not None:
            check_folder(job.exemplars.pictures, job.may_replace(job.exemplars.pictures))
    if job.plan_output is not None:
        _check_plan_output(job, job.plan_output)


def _check_plan_output(job: Job, path: Path) -> None:
    _check_suffix(path, "--save-plan")
    others = [job.checkpoint, *(() if job.plan is None else (job.plan.path,))]
    if path.resolve() in [other.resolve() for other in others]:
        raise OutputError(f"The plan's output {path} is an input.", "Give another name with --save-plan.")
    refuse_existing(path, job.overwrite)


def _check_suffix(path: Path, option: str) -> None:
    if path.suffix.lower() != ".safetensors":
        raise OutputError(
            f"The output {path} has the suffix {path.suffix or '(none)'}, and results are safetensors.",
            f"Give a name that ends in .safetensors with {option}.",
        )


def _check_tuning(job: Job, model: nn.Module) -> None:
    """Refuse what cannot be frozen, optimized or scheduled, and batches too small, before any work is done."""
    if _trains_batch_norm(job, model) and job.batch_size * count() == 1:
        raise OptionError(
            "The network has BatchNorm, whose statistics are those of a batch, and --batch-size 1 gives it one image.",
            "Give a larger --batch-size.",
        )
    check_mixable(job.tuning, job.batch_size)
    frozen = frozen_names(model, job.tuning.freeze)
    if job.has_images and job.epochs:
        with frozen_parameters(model, frozen):
            create_schedule(create_optimizer(model, job.tuning), job.tuning, 1)


def _check_fine_tuning(job: Job) -> None:
    if job.images is None:
        raise DataError(
            "There are no images to fine-tune on.",
            "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
        )
    if job.epochs == 0:
        raise OptionError("No epoch of fine-tuning is asked for.", "Give --epochs 1 or more.")


def _check_method(job: Job, name: str) -> None:
    method = find_method(name)
    wanted = method.measures(make_config(method, job.options))
    if job.plan is not None:
        # Whatever it was measured on, or mixed with, is in it.
        return
    if wanted is not None and not job.has_images:
        raise DataError(
            f"The method {name} measures {wanted} on labelled images, and there are none.",
            "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
        )
    if method.needs_partner and job.partner is None:
        raise OptionError(f"The method {name} mixes two networks and was given one.", "Name the other with --partner.")
    if job.partner is not None and not method.needs_partner:
        raise OptionError(f"The method {name} takes no partner.", "Leave --partner out.")


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


def _open_images(job: Job, model: nn.Module) -> ImageData | None:
    if job.images is None:
        return None
    with PartialState().local_main_process_first():
        # What has to be fetched or unpacked is then done once on every machine.
        data = job.images(model)
    check_classes(data, num_outputs(model))
    return data


def _check_count(job: Job, model: nn.Module, data: ImageData) -> None:
    if _trains_batch_norm(job, model) and count_images(loader(job, data.train)) == 1:
        raise DataError(
            f"The data {data.name} leaves one training image, and BatchNorm cannot be trained on one.",
            "Give more images, or a larger --limit.",
        )


def _foreign_notes(data: ImageData, checkpoint: Checkpoint) -> list[str]:
    """Return a caution where exemplars were made from another checkpoint."""
    if data.source.get("checkpoint_sha256", checkpoint.sha256) == checkpoint.sha256:
        return []
    return [f"The data {data.name} was synthesized from another checkpoint than {checkpoint.path}."]


def _trains_batch_norm(job: Job, model: nn.Module) -> bool:
    return job.has_images and (job.epochs > 0 or job.recalibrate) and has_batch_norm(model)


def _leaves_single_image(job: Job, model: nn.Module, data: ImageData) -> bool:
    """Whether the last batch of an epoch has one image, of which BatchNorm may have no statistics."""
    images = count_images(loader(job, data.train))
    return job.epochs > 0 and has_batch_norm(model) and images is not None and images % (job.batch_size * count()) == 1


def _batch_notes(job: Job, model: nn.Module, data: ImageData) -> list[str]:
    notes = list(batch_notes(job.batch_size)) if job.epochs else []
    if not _leaves_single_image(job, model, data):
        return notes
    return [
        *notes,
        "One image is left out of every epoch, another each time: it would be a batch alone, unfit for BatchNorm.",
    ]


def training_loader(job: Job, model: nn.Module, data: ImageData) -> DataLoader[Any]:
    return loader(job, data.train, shuffle=True, drop_last=_leaves_single_image(job, model, data))


def loader(job: Job, dataset: Any, *, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
    return make_loader(
        dataset,
        batch_size=job.batch_size,
        workers=job.workers,
        shuffle=shuffle,
        drop_last=drop_last,
        seed=job.seed,
        pin_memory=torch.cuda.is_available(),
    )


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


def _teacher(job: Job) -> tuple[nn.Module | str | None, tuple[str, ...]]:
    """Return the teacher, and notes about its file."""
    if job.teacher is None or job.teacher == "original":
        return job.teacher, ()
    teacher, checkpoint = open_checkpoint(Path(job.teacher), job.arch)
    return teacher, checkpoint.notes
