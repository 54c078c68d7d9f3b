"""The main job on files: read a checkpoint, apply a method to its network, write the result and its record."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from surgeon.checkpoint import Checkpoint, build, find_architecture, fit, load, read, refuse_existing, save, write_text
from surgeon.data import ImageData, check_classes, make_loader
from surgeon.edit.plan import Plan
from surgeon.errors import DataError, OutputError, PlanError
from surgeon.operate.apply import OnEpoch, OnStage, apply, find_method, num_outputs, plan
from surgeon.operate.record import Record, Stage
from surgeon.progress import Track
from surgeon.tuning import TuningConfig, make_accelerator
from surgeon.tuning.optimizer import create_optimizer
from surgeon.tuning.schedule import create_schedule

OpenImages = Callable[[nn.Module], ImageData]


@dataclass(frozen=True)
class Job:
    """What to do with one checkpoint file.

    Attributes:
        checkpoint: path of the input, which is never written to.
        method: name of the method.
        options: its options, as text or values.
        layers: module names and globs.
        arch: the architecture as the user gave it, or None.
        images: opens the data set for a network; None where there are no images.
        example: gives an input of the size that the network takes, for tracing.
        output: path of the result; `<stem>-<method>.safetensors` beside the input where it is None.
        overwrite: replace outputs that exist.
        epochs: epochs of fine-tuning.
        tuning: its other options.
        teacher: `original`, the path of a checkpoint of the same architecture, or None.
        recalibrate: measure BatchNorm statistics anew after the operation.
        seed: seed of everything random.
        batch_size: images a batch.
        workers: processes that read images.
    """

    checkpoint: Path
    method: str
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
    recalibrate: bool
    seed: int
    batch_size: int
    workers: int

    @property
    def result(self) -> Path:
        """Where the fine-tuned network goes."""
        return self.output or self.checkpoint.with_name(f"{self.checkpoint.stem}-{self.method}.safetensors")

    @property
    def best(self) -> Path:
        """Where the best epoch's weights go, if it is not the last."""
        return self.result.with_name(f"{self.result.stem}-best.safetensors")

    @property
    def record(self) -> Path:
        """Where the record goes."""
        return self.result.with_suffix(".json")


def plan_job(job: Job, track: Track) -> Plan:
    """Return what the job would do, without doing it.

    Raises:
        SurgeonError: its inputs cannot be used; see `apply`.
    """
    _check_outputs(job)
    model, _ = _open(job)
    data = _images(job, model)
    calibration = None if data is None else _loader(job, data.calibration)
    example = job.example(model)
    return plan(
        model, job.method, job.layers, calibration, seed=job.seed, example_input=example, track=track, **job.options
    )


def run_job(job: Job, *, track: Track, on_stage: OnStage, on_epoch: OnEpoch, say: Callable[[str], None]) -> Record:
    """Do the job: write the result, its record, and the best epoch's weights where they are not the last.

    Every file appears whole or not at all, and the result before its record.

    Args:
        job: what to do.
        track: is told of every batch.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        say: called with remarks for the reader.

    Raises:
        SurgeonError: its inputs cannot be used, or its outputs not be written; see `apply`.
    """
    _check_outputs(job)
    model, checkpoint = _open(job)
    _check_tuning(job, model)
    data = _images(job, model)
    for note in () if data is None else data.notes:
        say(note)
    best: list[tuple[int, dict[str, torch.Tensor]]] = []

    def finished(stage: Stage) -> None:
        if stage.name == "operated":
            # The best weights of an earlier target are not those of the network that is operated on now.
            best.clear()
        on_stage(stage)

    record = apply(
        model,
        job.method,
        job.layers,
        train=None if data is None else _loader(job, data.train, shuffle=True),
        val=None if data is None else _loader(job, data.val),
        calibration=None if data is None else _loader(job, data.calibration),
        epochs=job.epochs,
        tuning=job.tuning,
        teacher=_teacher(job),
        recalibrate=job.recalibrate,
        seed=job.seed,
        accelerator=make_accelerator(job.tuning.mixed_precision),
        track=track,
        example_input=job.example(model),
        on_stage=finished,
        on_epoch=on_epoch,
        on_best=lambda epoch, state: best.append((epoch, state)),
        **job.options,
    )
    if not record.edits:
        raise PlanError("The run edited nothing, so there is nothing to write.", "Choose other layers or options.")
    remarks = [f"The best epoch was {epoch + 1}; its weights are in {job.best}." for epoch, _ in best]
    remarks += _loss_of_accuracy(record)
    record = dataclasses.replace(
        record,
        checkpoint={"path": str(job.checkpoint), "sha256": checkpoint.sha256},
        output=str(job.result),
        notes=(*record.notes, *(() if data is None else data.notes), *remarks),
    )
    _write(job, model, record, [state for _, state in best])
    for remark in remarks:
        say(remark)
    return record


def _check_outputs(job: Job) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises:
        OutputError: a path exists, is the input, or is not for .safetensors.
    """
    if job.result.suffix.lower() != ".safetensors":
        raise OutputError(
            f"The output {job.result} has the suffix {job.result.suffix or '(none)'}, and results are safetensors.",
            "Give a name that ends in .safetensors with -o.",
        )
    if job.result.resolve() == job.checkpoint.resolve():
        raise OutputError(f"The output {job.result} is the input itself.", "Give another name with -o.")
    for path in (job.result, job.record, job.best):
        refuse_existing(path, job.overwrite)


def _check_tuning(job: Job, model: nn.Module) -> None:
    """Refuse an optimizer or a schedule that cannot be made, before any work is done."""
    if job.images is not None and job.epochs:
        create_schedule(create_optimizer(model, job.tuning), job.tuning, 1)


def _open(job: Job) -> tuple[nn.Module, Checkpoint]:
    checkpoint = read(job.checkpoint)
    model = build(find_architecture(checkpoint, job.arch), checkpoint)
    fit(model, checkpoint)
    return model.eval(), checkpoint


def _images(job: Job, model: nn.Module) -> ImageData | None:
    if job.images is None:
        if find_method(job.method).needs_data:
            raise DataError(
                f"The method {job.method} measures activations on labelled images, and there are none.",
                "Name some with --data: a folder with one folder a class, a timm name, or digits to try it out.",
            )
        return None
    data = job.images(model)
    check_classes(data, num_outputs(model))
    return data


def _loader(job: Job, dataset: Any, *, shuffle: bool = False) -> DataLoader[Any]:
    return make_loader(
        dataset,
        batch_size=job.batch_size,
        workers=job.workers,
        shuffle=shuffle,
        seed=job.seed,
        pin_memory=torch.cuda.is_available(),
    )


def _teacher(job: Job) -> nn.Module | str | None:
    if job.teacher is None or job.teacher == "original":
        return job.teacher
    return load(Path(job.teacher), job.arch)


def _loss_of_accuracy(record: Record) -> list[str]:
    """Return a remark where the result answers worse than the checkpoint as it came."""
    first, last = record.stages[0].top1, record.stages[-1].top1
    if first is None or last is None or last >= first:
        return []
    return [f"The result is worse than the input: top-1 fell from {first:.2f} % to {last:.2f} %."]


def _write(job: Job, model: nn.Module, record: Record, best: Sequence[dict[str, torch.Tensor]]) -> None:
    core = {key: value for key, value in record.to_dict().items() if key not in ("edits", "epochs", "skipped")}
    header = {"surgeon": json.dumps(core, default=str)}
    model.to("cpu")
    save(job.result, model, metadata=header, overwrite=job.overwrite)
    write_text(job.record, record.to_json(), job.overwrite)
    for state in best:
        model.load_state_dict(state)
        save(job.best, model, metadata=header, overwrite=job.overwrite)
    if not best:
        # Permitted by --overwrite: weights of an earlier run must not stand beside this one's result.
        job.best.unlink(missing_ok=True)
