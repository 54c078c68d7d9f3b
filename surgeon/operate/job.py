"""A job on files: what it consists of, and where its outputs go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from surgeon.checkpoint.apart import Named
from surgeon.data import ImageConfig, ImageData
from surgeon.data.exemplars import SUFFIX as EXEMPLARS_SUFFIX
from surgeon.data.transforms import Transform
from surgeon.exemplars import SynthesisConfig
from surgeon.operate.record import Record
from surgeon.operate.states import StateFolder
from surgeon.operate.stored_plan import StoredPlan
from surgeon.tuning import TuningConfig
from surgeon.tuning.config import Switch

OpenImages = Callable[[nn.Module], ImageData]
Init = Literal["checkpoint", "random"]


@dataclass(frozen=True)
class ExemplarJob:
    """What exemplars a job makes for want of images.

    Attributes:
        config: how they are made.
        images: gives the network's input.
        vary: gives what makes a training image's tensor, for the network's input.
        pictures: folder for PNG images of them, or None.
    """

    config: SynthesisConfig
    images: Callable[[nn.Module], ImageConfig]
    vary: Callable[[ImageConfig], Transform]
    pictures: Path | None = None


def claim_of(path: Path) -> StateFolder:
    """Return the folder whose lock says who works on a file, and on all that differ from it in the suffix alone."""
    return StateFolder(path.with_name(f"{path.stem}.state"))


@dataclass(frozen=True)
class Job:
    """What to do with one checkpoint file, or with a network that begins at random.

    Attributes:
        checkpoint: path of the input, which is never written to; None where the network is that of `arch` and begins at
            random.
        method: name of the method; None fine-tunes and operates on nothing.
        options: its options, as text or values.
        layers: module names and globs.
        arch: the architecture as the user gave it, or None.
        images: opens the data set for a network; None where there are no images.
        example: gives an input of the size that the network takes, for tracing.
        output: path of the result; where it is None, `<stem>-<method>.safetensors` beside the input, or
            `<stem>-finetuned.safetensors` without a method. Without an input the stem is the architecture's name, and
            the result is in the current folder.
        overwrite: replace outputs that exist.
        epochs: epochs of fine-tuning.
        tuning: its other options.
        teacher: `original`, which is the checkpoint's network as it came, the path of another checkpoint, or None.
        partner: path of a second checkpoint of the same architecture, for methods that mix two; where it is None and
            the network begins at random, so does a second one.
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
        notes: what a reader of the results should know about what was asked for.
        resume_changed: continue one even where it began with other values of options that may change; see `apply`.
        init: the weights that the network starts with: the checkpoint's, or random ones, which `seed` decides. Of the
            checkpoint there are then only its architecture, the teacher `original`, and what answers are compared with.
        teacher_arch: the architecture of the teacher's file, where it is another than `arch`.
        reports: further text files that are written after the record, and what makes each of it.
        record_only: write the record and no weights.
        also_read: further files that are read, such as the recipe, each with what it is in words.
    """

    checkpoint: Path | None
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
    resume_changed: bool = False
    notes: tuple[str, ...] = ()
    init: Init = "checkpoint"
    teacher_arch: str | None = None
    reports: Mapping[Path, Callable[[Record], str]] = field(default_factory=dict)
    record_only: bool = False
    also_read: tuple[Named, ...] = ()

    @property
    def result(self) -> Path:
        """Where the fine-tuned network goes."""
        if self.output is not None:
            return self.output
        done = self.method or "finetuned"
        if self.checkpoint is None:
            return Path(f"{str(self.arch).rpartition(':')[2]}-{done}.safetensors")
        return self.checkpoint.with_name(f"{self.checkpoint.stem}-{done}.safetensors")

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
        return self.claim if self.has_images and self.epochs else None

    @property
    def claim(self) -> StateFolder:
        """The folder whose lock says who works on the outputs, also where no states are kept in it."""
        return claim_of(self.result)

    def may_replace(self, path: Path) -> bool:
        """Tell whether an output may be replaced: it is allowed, or it is what an interrupted run of this job wrote."""
        return self.overwrite or self.claim.announced(path)

    @property
    def has_images(self) -> bool:
        """Whether there are images, or some will be made where they are needed."""
        return self.images is not None or self.exemplars is not None
