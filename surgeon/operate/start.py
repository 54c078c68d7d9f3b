"""What a job's network starts from: a checkpoint's weights, or a random initialization of its own."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from surgeon.checkpoint import Architecture, Checkpoint, build, open_checkpoint
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.checkpoint.code_file import NUM_CLASSES
from surgeon.checkpoint.precision import in_words
from surgeon.data import ImageData
from surgeon.errors import ArchitectureError, DataError, OptionError
from surgeon.operate.inputs import num_outputs
from surgeon.operate.job import Job
from surgeon.operate.partner import SEED_SHIFT
from surgeon.structure import structure_of
from surgeon.tuning.generators import derived_seed, seeded


@dataclass(frozen=True)
class Start:
    """What a job starts from.

    Attributes:
        model: the network, on the CPU and in evaluation mode.
        checkpoint: what was read; None without a checkpoint.
        original: the checkpoint's network where the job's begins at random; None for the network itself as it came,
            and without a checkpoint.
        data: the images, where they had to be opened to know the number of classes.
        notes: what a reader of the results should know.
    """

    model: nn.Module
    checkpoint: Checkpoint | None
    original: nn.Module | None = None
    data: ImageData | None = None
    notes: tuple[str, ...] = ()


def check_start(job: Job) -> None:
    """Refuse a job whose network would have nothing to start from, or nothing to learn from.

    Raises:
        SurgeonError: it has neither a checkpoint nor random weights of a known architecture, or begins at random
            without images, or with a teacher that is not there.
    """
    if job.init == "checkpoint":
        if job.checkpoint is None:
            raise OptionError(
                "There is no checkpoint to start from.", "Name one, or give --init random with an --arch."
            )
        return
    if job.checkpoint is None and job.arch is None:
        raise ArchitectureError(
            "With --init random and without a checkpoint, nothing says which network it is.",
            "Pass --arch with a timm name, torchvision:NAME or file.py:function, or name a checkpoint of the network.",
        )
    if job.images is None:
        raise DataError(
            "There are no images, and a network with random weights knows nothing that they could be synthesized from.",
            "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
        )
    if job.checkpoint is None and job.teacher == "original":
        raise OptionError(
            "There is no checkpoint that could be the teacher `original` of a network with random weights.",
            "Name one: the CHECKPOINT before the options, or another network's with --teacher CKPT.",
        )


def open_start(job: Job) -> Start:
    """Return the network that a job starts with; of the same seed it is the same.

    Args:
        job: what `check_start` lets pass.

    Raises:
        SurgeonError: the checkpoint cannot be read or does not fit, the network cannot be built, or the images that
            tell the number of its classes cannot be opened.
    """
    if job.checkpoint is None:
        return _without_checkpoint(job, parse_architecture(str(job.arch)))
    model, checkpoint = open_checkpoint(job.checkpoint, job.arch, job.weights)
    if job.init == "checkpoint":
        return Start(model, checkpoint, notes=(*checkpoint.notes, *_precision_notes(checkpoint, model)))
    if structure_of(model):
        raise OptionError(
            f"The layers of {job.checkpoint} were resized, and random weights are only drawn for networks as built.",
            "Leave --init random out, or give --arch and no CHECKPOINT.",
        )
    fresh = _fresh(vars(model)["surgeon_architecture"], job.seed)
    return Start(fresh, checkpoint, model, notes=checkpoint.notes)


def start_notes(job: Job, against: str | None) -> tuple[str, ...]:
    """Return what a reader of the results should know about where the network starts.

    Args:
        job: the job.
        against: the file of the network that its answers are compared with, or None.
    """
    if job.init == "checkpoint":
        return ()
    begins = f"The network starts from random weights (--init random, seed {job.seed}), whose figures are those of the"
    if against is None:
        return (f"{begins} stage `original`; there is no checkpoint to compare its answers with.",)
    return (f"{begins} stage `original`; agreement and drift are measured against {against}.",)


def open_raw_images(job: Job, model: nn.Module) -> ImageData | None:
    """Return the images for a network, without a look at whether they fit it; None where the job has none."""
    if job.images is None:
        return None
    with PartialState().local_main_process_first():
        # What has to be fetched or unpacked is then done once on every machine.
        return job.images(model)


def _without_checkpoint(job: Job, architecture: Architecture) -> Start:
    model = _fresh(architecture, job.seed)
    data = open_raw_images(job, model)
    classes = 0 if data is None else len(data.classes)
    if classes and classes != num_outputs(model):
        arguments: dict[str, Any] = {**architecture.arguments, NUM_CLASSES: classes}
        model = _fresh(dataclasses.replace(architecture, arguments=arguments), job.seed)
    return Start(model, None, data=data)


def random_partner(job: Job, model: nn.Module) -> nn.Module:
    """Return a second network of the same architecture, with other random weights.

    Args:
        job: what it is the partner in.
        model: the job's network.
    """
    return _fresh(vars(model)["surgeon_architecture"], job.seed, SEED_SHIFT)


def _fresh(architecture: Architecture, *seeds: int) -> nn.Module:
    """Return a network with the random weights that its constructor draws."""
    with seeded(derived_seed(*seeds), torch.device("cpu")):
        return build(architecture).eval()


def _precision_notes(checkpoint: Checkpoint, model: nn.Module) -> list[str]:
    """Return a note where the network computes in another type than the file has its weights in."""
    stored = [tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point()]
    own = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    if set(stored) <= own:
        return []
    computed = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in own))
    return [
        f"{checkpoint.path} stores weights in {in_words(stored)}; they are computed with in {computed}, which all "
        "figures are of, and a result is written in the file's own types."
    ]
