"""A job without images: exemplars are made from the checkpoint, kept beside the result, and stand in for them."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from surgeon.checkpoint import Checkpoint
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import ImageConfig, ImageData
from surgeon.data.config import COLOR, GRAY
from surgeon.data.exemplars import Exemplars, check_shape
from surgeon.data.sampling import spread_labels
from surgeon.data.synthetic import at_own_size, exemplar_data
from surgeon.errors import DataError, OptionError
from surgeon.exemplars import Preparation, measure_effort, prepare, synthesize
from surgeon.exemplars.classifier import ANY_TASK
from surgeon.exemplars.recognize import recognized_share
from surgeon.exemplars.schedule import USUAL_STEPS
from surgeon.memory import named_shortage
from surgeon.operate.exemplar_files import find_earlier, synthesis_sha256
from surgeon.operate.exemplar_files import keep as keep_exemplars
from surgeon.operate.exemplar_time import Forecast, count_passes
from surgeon.operate.images import check_input
from surgeon.operate.inputs import Say
from surgeon.operate.job import ExemplarJob, Job
from surgeon.processes import is_main, same_tensors
from surgeon.progress import Track
from surgeon.tuning import make_accelerator
from surgeon.tuning.sharding import sharded

SMALLER = "Make fewer exemplars at a time (--batch-size), or smaller ones (--exemplar-size)."
"""What helps where memory runs out."""


@dataclass(frozen=True)
class Making:
    """Exemplars that are going to be made.

    Attributes:
        wanted: how many, how, and where PNG images of them go.
        images: the network's input, in the size of the exemplars.
        prepared: what the network says about them.
        size_notes: what a reader of the results should know about their size.
    """

    wanted: ExemplarJob
    images: ImageConfig
    prepared: Preparation
    size_notes: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about how they are made."""
        steps = self.prepared.steps
        if self.wanted.config.steps is not None or steps == USUAL_STEPS:
            return self.size_notes
        height, width = self.prepared.shape[1:]
        return (
            *self.size_notes,
            f"The network takes no images smaller than {height}x{width}, so the exemplars are made in {steps} steps at "
            f"that size in place of {USUAL_STEPS} mostly at smaller ones; --exemplar-steps asks for more.",
        )


def prepare_exemplars(job: Job, wanted: ExemplarJob, model: nn.Module) -> Making:
    """Find out whether exemplars can be made from a network, before any work is done.

    Args:
        job: what they are for.
        wanted: how many, and how.
        model: the network as it came, on the CPU; it is left as it was.

    Raises:
        ArchitectureError: the network has no classifier.
        DataError: it has one output, or does not take images.
        DivergenceError: its answer is NaN or infinite.
        OptionError: the network is divided among the processes.
    """
    if sharded(make_accelerator(job.tuning.mixed_precision).device):
        raise OptionError(
            "With FSDP, no exemplars are synthesized, as that takes the whole network on one device.",
            "Give images with --data, such as exemplars:FILE of a run without FSDP.",
        )
    example = job.example(model)
    channels = example.shape[1]
    if channels not in (GRAY, COLOR):
        raise DataError(
            f"The network takes images of {channels} channels, and exemplars have 1 or 3, as files of images do.",
            f"{ANY_TASK[0].upper()}{ANY_TASK[1:]}.",
        )
    check_input(model, example)
    images = wanted.images(model)
    check_shape((wanted.config.count, images.input_size[0], *(wanted.config.size or images.input_size[1:])))
    prepared = prepare(model, images.input_size, wanted.config)
    own, notes = at_own_size(images, prepared.shape[1:])
    return Making(wanted, own, prepared, notes)


def make_exemplars(
    job: Job,
    making: Making,
    model: nn.Module,
    graph: CouplingGraph | None,
    checkpoint: Checkpoint,
    *,
    keep: bool,
    track: Track,
    say: Say,
) -> ImageData:
    """Make exemplars from a checkpoint's network and return them as a data set.

    Args:
        job: what they are for.
        making: what `prepare_exemplars` has returned.
        model: the network as it came; it is left as it was.
        graph: its coupling graph.
        checkpoint: its file.
        keep: write them to `job.exemplar_file` and where else they are wanted.
        track: is told of every step.
        say: is told how long it will take.

    Raises:
        DivergenceError: the synthesis became NaN or infinite.
        OutputError: a file cannot be written.
    """
    expected = _expected(making, model, checkpoint)
    earlier = find_earlier(job, making.wanted, expected) if keep else None
    if earlier is not None:
        say(
            f"The exemplars in {job.exemplar_file} are those that this run would make, and are used; --restart makes "
            "them anew."
        )
        if is_main():
            keep_exemplars(job, making.wanted, earlier, say)
        return _data(job, making, earlier, keep)
    prepared, config = making.prepared, making.wanted.config
    (_, height, width), device = prepared.shape, make_accelerator(job.tuning.mixed_precision).device
    model.to(device)
    with named_shortage(SMALLER):
        effort = measure_effort(model, making.images, config, prepared, trains=keep and job.epochs > 0, device=device)
        later = count_passes(job, model, graph, config.count, only_plan=not keep).seconds(effort, config.count)
        forecast = Forecast(effort.synthesis, later, say)
        forecast.begin(
            f"There are no images: {config.count} exemplars of {height}x{width} pixels are synthesized from the "
            "checkpoint"
        )
        pixels, labels = synthesize(
            model,
            making.images,
            config,
            prepared.classes,
            prepared=prepared,
            costs=effort.costs,
            device=device,
            track=track,
            on_step=forecast.on_step,
        )
    # All processes make them, so that none waits for long, and then take those of the main one.
    same_tensors([pixels, labels])
    with named_shortage(SMALLER):
        share = recognized_share(model, making.images, pixels, labels, batch_size=config.batch_size, device=device)
    made = dataclasses.replace(expected, images=pixels, labels=labels, recognized=share)
    if keep and is_main():
        keep_exemplars(job, making.wanted, made, say)
    return _data(job, making, made, keep)


def _data(job: Job, making: Making, made: Exemplars, keep: bool) -> ImageData:
    images, seed = making.images, making.wanted.config.seed
    file = job.exemplar_file if keep else None
    data = exemplar_data(made, images, making.wanted.vary(images), name="exemplars", file=file, seed=seed)
    return dataclasses.replace(data, notes=(*data.notes, *making.notes))


def _expected(making: Making, model: nn.Module, checkpoint: Checkpoint) -> Exemplars:
    """Return what the exemplars will be, but for the pixels."""
    prepared, config = making.prepared, making.wanted.config
    # Whether it was asked for or is usual makes no difference, and neither does a batch that is not full.
    known = dataclasses.replace(
        config,
        steps=prepared.steps,
        size=prepared.shape[1:],
        batch_size=min(config.batch_size, config.count),
    )
    return Exemplars(
        images=torch.empty(config.count, *prepared.shape, dtype=torch.uint8),
        labels=spread_labels(config.count, prepared.classes),
        classes=prepared.classes,
        checkpoint_sha256=checkpoint.sha256,
        seed=config.seed,
        steps=prepared.steps,
        synthesis_sha256=synthesis_sha256(model, making.images, known, prepared.classes),
    )
