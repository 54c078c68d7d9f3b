"""A job without images: exemplars are made from the checkpoint, kept beside the result, and stand in for them."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from surgeon.checkpoint import Checkpoint
from surgeon.coupling.graph import CouplingGraph
from surgeon.data import ImageData
from surgeon.data.exemplars import Exemplars, check_shape
from surgeon.data.sampling import spread_labels
from surgeon.data.synthetic import exemplar_data
from surgeon.edit.plan import Edit, Reorder, Rescale
from surgeon.errors import ArchitectureError, OptionError
from surgeon.exemplars import measure_effort, synthesize
from surgeon.exemplars.classifier import check_classifier
from surgeon.methods import make_config
from surgeon.operate.exemplar_files import find_earlier, synthesis_sha256
from surgeon.operate.exemplar_files import keep as keep_exemplars
from surgeon.operate.inputs import Say, find_method, num_outputs
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.plan import plan
from surgeon.processes import is_main, same_tensors
from surgeon.progress import Track
from surgeon.tuning import make_accelerator
from surgeon.tuning.modes import has_batch_norm
from surgeon.tuning.sharding import sharded

PASSES = 6
"""Forward passes over the exemplars beside fine-tuning: of measuring, recalibrating, and the stages' figures."""

PASSES_AN_EPOCH = 5
"""The teacher's, the network's forward and back (which is two), and that of the epoch's figures."""

REPORT_AFTER = 10.0
"""Seconds of work after which the estimate is corrected by what was really measured."""


def moves_values(edits: Sequence[Edit]) -> bool:
    """Return whether edits change the function: what keeps it keeps the BatchNorm statistics."""
    return any(not isinstance(edit, (Reorder, Rescale)) for edit in edits)


def needs_images(
    job: Job, model: nn.Module, graph: CouplingGraph | None, partner: nn.Module | None, only_plan: bool
) -> bool:
    """Return whether a job measures, trains or recalibrates: everything else works on the weights alone.

    Args:
        job: what to do.
        model: its network, as it came.
        graph: the network's coupling graph; None where nothing is operated on.
        partner: the second network, or None.
        only_plan: the job is only planned.
    """
    if job.method is None:
        return True
    method = find_method(job.method)
    if job.plan is None and method.measures(make_config(method, job.options)) is not None:
        return True
    if only_plan or job.epochs:
        return not only_plan
    if not job.recalibrate or not has_batch_norm(model):
        return False
    if job.plan is not None:
        return moves_values(job.plan.plan.edits)
    made = plan(model, job.method, job.layers, seed=job.seed, graph=graph, partner=partner, **job.options)
    return moves_values(made.edits)


def make_exemplars(
    job: Job, wanted: ExemplarJob, model: nn.Module, checkpoint: Checkpoint, *, keep: bool, track: Track, say: Say
) -> ImageData:
    """Make exemplars from a checkpoint's network and return them as a data set.

    Args:
        job: what they are for.
        wanted: how many, how, and where PNG images of them go.
        model: the network as it came; it is left as it was.
        checkpoint: its file.
        keep: write them to `job.exemplar_file` and where else they are wanted.
        track: is told of every step.
        say: is told how long it will take.

    Raises:
        ArchitectureError: the network has no classifier.
        DataError: it has one class, or does not take images.
        OptionError: the synthesis became NaN or infinite, or the network is divided among the processes.
        OutputError: a file cannot be written.
    """
    device = make_accelerator(job.tuning.mixed_precision).device
    if sharded(device):
        raise OptionError(
            "With FSDP, no exemplars are synthesized, as that takes the whole network on one device.",
            "Give images with --data, such as exemplars:FILE of a run without FSDP.",
        )
    images, config = wanted.images(model), wanted.config
    varied = wanted.vary(images)
    size = config.size or images.input_size[1:]
    shape = (images.input_size[0], *size)
    check_shape((config.count, *shape))
    model.to(device)
    classes = _classes(model)
    check_classifier(model, shape, classes, device)
    config = dataclasses.replace(config, size=size)
    # What they will be, but for the pixels.
    expected = Exemplars(
        images=torch.empty(config.count, *shape, dtype=torch.uint8),
        labels=spread_labels(config.count, classes),
        classes=classes,
        checkpoint_sha256=checkpoint.sha256,
        seed=config.seed,
        steps=config.steps,
        synthesis_sha256=synthesis_sha256(model, images, config, classes),
    )
    file = job.exemplar_file if keep else None
    earlier = find_earlier(job, wanted, expected) if keep else None
    if earlier is not None:
        say(f"The exemplars in {file} are those that this run would make, and are used; --restart makes them anew.")
        if is_main():
            keep_exemplars(job, wanted, earlier, say)
        return exemplar_data(earlier, images, varied, name="exemplars", file=file, seed=config.seed)
    effort = measure_effort(model, shape, config, device=device)
    later = (PASSES + PASSES_AN_EPOCH * job.epochs) * effort.forward * config.count
    say(
        f"There are no images: {config.count} exemplars of {size[0]}x{size[1]} pixels are synthesized from the "
        f"checkpoint in about {_minutes(effort.synthesis)}; everything together takes about "
        f"{_minutes(effort.synthesis + later)}."
    )
    pixels, labels = synthesize(
        model, images, config, classes, device=device, track=track, on_step=_corrected(effort.synthesis, say)
    )
    # All processes make them, so that none waits for long, and then take those of the main one.
    same_tensors([pixels, labels])
    made = dataclasses.replace(expected, images=pixels, labels=labels)
    if keep and is_main():
        keep_exemplars(job, wanted, made, say)
    return exemplar_data(made, images, varied, name="exemplars", file=file, seed=config.seed)


def _classes(model: nn.Module) -> int:
    # timm's way of saying that the classifier was taken off.
    if getattr(model, "num_classes", None) == 0:
        raise ArchitectureError(
            "The network has no classifier, so no image of a class can be made from it.",
            "Give a checkpoint with its classifier, or images with --data.",
        )
    return num_outputs(model)


def _corrected(expected: float, say: Say) -> Callable[[float], None]:
    """Return what says once, after some work, how long the synthesis really takes."""
    started: list[tuple[float, float]] = []
    said = expected < 2 * REPORT_AFTER

    def on_step(share: float) -> None:
        nonlocal said
        now = time.perf_counter()
        if not started:
            # The first step also pays for what libraries set up.
            started.append((now, share))
        start, before = started[0]
        if not said and now - start >= REPORT_AFTER:
            said = True
            left = (now - start) / (share - before) * (1 - share)
            say(f"By the speed so far the exemplars are ready in {_minutes(left)}.")

    return on_step


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
