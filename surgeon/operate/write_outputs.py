"""What a job leaves: its result and the record, each whole or not at all, and nothing of others replaced."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from surgeon.checkpoint import refuse_existing
from surgeon.checkpoint.write import network_content, remove_output, staged, write_into
from surgeon.errors import OutputError
from surgeon.operate.exemplar_files import drop_stale
from surgeon.operate.inputs import Say
from surgeon.operate.job import Job
from surgeon.operate.record import Record

Write = Callable[[BinaryIO], object]


def write_outputs(
    job: Job,
    model: nn.Module,
    record: Record,
    best: Sequence[dict[str, torch.Tensor]],
    types: Mapping[str, torch.dtype],
    say: Say,
) -> None:
    """Write the result, its record, the best epoch's weights and the reports; then nothing of the run is kept.

    Args:
        job: what was done.
        model: the network as it is now; with the best epoch's weights afterwards, if there are some.
        record: of the run.
        best: the best epoch's weights where they are not the last, or nothing.
        types: in which tensors are written.
        say: is told what could not be removed.

    Raises:
        OutputError: a file cannot be written, or stands there already and is neither permitted nor what an earlier try
            of this very run has written.
    """
    core = {key: value for key, value in record.to_dict().items() if key not in ("edits", "epochs", "skipped")}
    header = {"surgeon": json.dumps(core, default=str)}
    model.to("cpu")

    def weights(state: dict[str, torch.Tensor] | None, file: BinaryIO) -> None:
        if state is not None:
            model.load_state_dict(state)
        write_into(file, *network_content(model, metadata=header, types=types))

    for path in (job.result, job.record, job.best, *job.reports):
        refuse_existing(path, job.may_replace(path))
    files: list[tuple[Path, Write]] = []
    if not job.record_only:
        files.append((job.result, partial(weights, None)))
    files.append((job.record, partial(_write_text, record.to_json())))
    files += [(job.best, partial(weights, state)) for state in best]
    _write_together(job, files)
    if not best and job.may_replace(job.best):
        # Weights of an earlier run, or of an earlier try, must not stand beside this one's result.
        remove_output(job.best)
    _write_together(job, [(path, partial(_write_text, report(record))) for path, report in job.reports.items()])
    drop_stale(job, record.data.get("file"), say)
    try:
        if job.states is not None:
            job.states.remove()
        else:
            job.claim.forget()
    except OutputError as error:
        say(f"Everything is written, but {error.problem} {error.remedy}")


def _write_together(job: Job, files: Sequence[tuple[Path, Write]]) -> None:
    """Write files, of which none takes its place before all are on the disk and what will be there is taken down."""
    with ExitStack() as stack:
        done = []
        for path, write in files:
            one = stack.enter_context(staged(path))
            write(one.file)
            one.sync()
            done.append(one)
        if done:
            job.claim.announce({one.path: one.sha256 for one in done})
        for one in done:
            # Not what was so before: another program may have written there since.
            one.put(job.may_replace(one.path))


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())
