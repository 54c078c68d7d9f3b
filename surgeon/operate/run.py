"""A job on files: read a checkpoint, apply a method to its network or only fine-tune it, write result and record."""

import contextlib
import dataclasses
from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator

from surgeon.checkpoint.precision import fitting_types
from surgeon.checkpoint.write import remove_leftovers
from surgeon.edit.plan import Plan
from surgeon.errors import OptionError, OutputError, PlanError
from surgeon.lost import named_loss
from surgeon.operate.apply import apply
from surgeon.operate.claim import claimed
from surgeon.operate.device_images import placed_images
from surgeon.operate.finetune import finetune
from surgeon.operate.inputs import Say, find_method
from surgeon.operate.job import Job
from surgeon.operate.job_inputs import Opened, open_job
from surgeon.operate.job_loaders import images_identity, loader, training_loader
from surgeon.operate.other_processes import as_begun
from surgeon.operate.plan import plan
from surgeon.operate.record import Record, Stage
from surgeon.operate.skipping import Skipping
from surgeon.operate.start import check_start
from surgeon.operate.stored_plan import save_plan
from surgeon.operate.work import OnEpoch, OnResume, OnStage
from surgeon.operate.write_outputs import write_outputs
from surgeon.processes import is_main
from surgeon.progress import Track
from surgeon.tuning import make_accelerator
from surgeon.tuning.compiling import without_compiler
from surgeon.tuning.config import CHANGEABLE
from surgeon.tuning.freeze import untrained_names

HARMLESS = {"workers", "download", "skip-bad-images"}
"""Options that decide on nothing but how a result comes about, or whether there is one."""

NOT_OF_THE_RESULT = {*HARMLESS, *(name.replace("_", "-") for name in CHANGEABLE)}
"""Options that a run may be continued with another value of; of some, if it is allowed to."""

COUNTED_TOGETHER = "batch-size"
"""What other processes may continue a run with another value of: all of theirs together have to be the same."""

MOST_REASONS = 3
"""Reasons that an error gives; a dry run lists all of them."""


def plan_job(job: Job, track: Track, say: Say) -> Plan:
    """Return what the job would do, without doing it; written to `job.plan_output`, if there is one.

    Raises:
        OptionError: the job has no method.
        SurgeonError: its inputs cannot be used; see `apply`.
    """
    if job.method is None:
        raise OptionError("Fine-tuning alone has no plan.", "Name a method.")
    if job.plan_output is not None and is_main():
        remove_leftovers(job.plan_output)
    check_start(job)
    make_accelerator(job.tuning.mixed_precision)
    opened = open_job(job, track, say, only_plan=True)
    track = Skipping(opened.data, say).watched(track)
    made = _make_plan(job, job.method, opened, track, say) if job.plan is None else job.plan.plan
    if job.plan_output is not None and is_main():
        save_plan(made, job.plan_output, overwrite=job.overwrite)
    return made


def _make_plan(job: Job, method: str, opened: Opened, track: Track, say: Say) -> Plan:
    calibration = None if opened.data is None else loader(job, opened.data.calibration)
    return plan(
        opened.model,
        method,
        job.layers,
        calibration,
        seed=job.seed,
        example_input=job.example(opened.model),
        graph=opened.graph,
        partner=opened.partner,
        frozen=untrained_names(opened.model, job.tuning.freeze) if job.epochs else (),
        track=track,
        say=say,
        **job.options,
    )


def run_job(
    job: Job,
    *,
    track: Track,
    on_stage: OnStage,
    on_epoch: OnEpoch,
    say: Say,
    on_resume: OnResume = lambda epochs: None,
) -> Record:
    """Do the job: write the result, its record and reports, and the best epoch's weights where they are not the last.

    Every file appears whole or not at all, and the result before its record.

    Args:
        job: what to do.
        track: is told of every batch.
        on_stage: called with the figures of every finished stage.
        on_epoch: called with the figures of every epoch.
        say: called with remarks for the reader.
        on_resume: called with the number of epochs that are over, where an interrupted run is continued.

    Raises:
        SurgeonError: its inputs cannot be used, or its outputs not be written; see `apply`.
    """
    # Outputs are named after the architecture and the method.
    check_start(job)
    if job.method is not None:
        find_method(job.method)
    accelerator = make_accelerator(job.tuning.mixed_precision, accumulate=job.tuning.accumulate)
    with named_loss(), claimed(job):
        return _run(job, accelerator, track, on_stage, on_epoch, say, on_resume)


def _run(
    job: Job,
    accelerator: Accelerator,
    track: Track,
    on_stage: OnStage,
    on_epoch: OnEpoch,
    say: Say,
    on_resume: OnResume,
) -> Record:
    job = as_begun(job)
    opened = open_job(job, track, say)
    if job.states is not None and (job.restart or not job.states.holds_state):
        # Without a state the folder may hold what an earlier run has found in other images.
        job.states.drop_states()
    model = opened.model
    skipping = Skipping(opened.data, say, job.states)
    data = None if opened.data is None else placed_images(job, opened.data, accelerator.device, say)
    best: list[tuple[int, dict[str, torch.Tensor]]] = []

    def finished(stage: Stage) -> None:
        if stage.name == "operated":
            # The best weights of an earlier target are not those of the network that is operated on now.
            best.clear()
        on_stage(stage)

    settings, uncompiled = without_compiler(job.tuning, accelerator.device)
    if uncompiled is not None:
        say(uncompiled)
    tuning: dict[str, Any] = {
        "train": None if data is None else training_loader(job, model, data),
        "val": None if data is None or not data.real else loader(job, data.val),
        "calibration": None if data is None else loader(job, data.calibration),
        "epochs": job.epochs,
        "tuning": settings,
        "teacher": opened.teacher,
        "reference": opened.reference,
        "compared": opened.compared,
        "synthetic": data is not None and not data.real,
        "seed": job.seed,
        "accelerator": accelerator,
        "track": skipping.watched(track),
        "on_stage": finished,
        "on_epoch": on_epoch,
        "on_resume": on_resume,
        "on_best": lambda epoch, state: best.append((epoch, state)),
        "say": say,
        **_keeping(job, opened),
    }
    if job.method is None:
        record = finetune(model, **tuning)
    else:
        record = apply(
            model,
            job.method,
            job.layers,
            partner=opened.partner,
            plan=None if job.plan is None else job.plan.plan,
            recalibrate=job.recalibrate,
            graph=opened.graph,
            example_input=job.example(model),
            **tuning,
            **job.options,
        )
    if job.method is not None and not record.edits:
        why = " ".join(record.skipped[:MOST_REASONS]) or "Nothing that was named needs it."
        if job.states is not None:
            # There is nothing to go on with.
            with contextlib.suppress(OutputError):
                job.states.remove()
        raise PlanError(
            f"The run edited nothing, so there is nothing to write. {why}", "Choose other layers or options."
        )
    if job.record_only:
        best.clear()
    own_notes = record.notes
    remarks = [f"The best epoch was {epoch + 1}; its weights are in {job.best}." for epoch, _ in best]
    remarks += _loss_of_accuracy(job, record) + _answers_lost(record)
    types: dict[str, torch.dtype] = {}
    if not job.record_only:
        types, unfit = fitting_types(model, [model.state_dict(), *(state for _, state in best)])
        remarks += unfit
    skipped, skipped_notes = skipping.finish()
    record = dataclasses.replace(
        record,
        checkpoint=opened.source,
        partner={**opened.partner_file, **record.partner},
        output=None if job.record_only else str(job.result),
        data={} if data is None else {"name": data.name, **data.source, **({"skipped": skipped} if skipped else {})},
        recipe=job.recipe,
        notes=(*record.notes, *opened.notes, *filter(None, [uncompiled]), *skipped_notes, *remarks),
    )
    if is_main():
        write_outputs(job, model, record, [state for _, state in best], types, say)
    # Until the files are there, or the main process has failed to write them.
    accelerator.wait_for_everyone()
    for remark in (*own_notes, *remarks):
        say(remark)
    return record


def _keeping(job: Job, opened: Opened) -> dict[str, Any]:
    """Return what says where the run keeps its states, and what tells it from others of the same weights."""
    if job.states is None:
        return {}
    images = None if opened.data is None else images_identity(job, opened.data)
    asked = {name: value for name, value in job.recipe.items() if name not in NOT_OF_THE_RESULT | {COUNTED_TOGETHER}}
    identity = {"layers": job.layers, "images": images, "asked": asked}
    if job.init == "random":
        # The weights that tell other runs apart are then not the checkpoint's.
        identity["start"] = [job.init, opened.source]
    return {
        "state": job.states.path,
        "save_every": job.save_every,
        "resume_changed": job.resume_changed,
        "identity": identity,
    }


def _loss_of_accuracy(job: Job, record: Record) -> list[str]:
    """Return a remark where the result answers worse than the network that it started from."""
    first, last = record.stages[0].top1, record.stages[-1].top1
    if first is None or last is None or last >= first:
        return []
    start = "input" if job.init == "checkpoint" else "random start"
    return [f"The result is worse than the {start}: top-1 fell from {first:.2f} % to {last:.2f} %."]


def _answers_lost(record: Record) -> list[str]:
    """Return a remark where answers that were numbers are none any more, though the weights still are."""
    first, last = record.stages[0].loss, record.stages[-1].loss
    if first is None or last is None or not isfinite(first) or isfinite(last):
        return []
    return [
        f"The result's loss on the validation images is {last}: some of its answers are no numbers any more. Lower the "
        "learning rate, or clip the gradient."
    ]
