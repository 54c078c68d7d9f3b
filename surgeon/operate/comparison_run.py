"""One run of a comparison: a job with a folder of its own, which one process does and all of them can read."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint import write_text
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.write import remove_leftovers
from surgeon.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    MemoryShortageError,
    OutputError,
    StateError,
    SurgeonError,
)
from surgeon.operate.claim import sweep
from surgeon.operate.comparison_claim import claimed, tidy
from surgeon.operate.comparison_recipe import files_terms, recipe
from surgeon.operate.inputs import Say
from surgeon.operate.job import Job
from surgeon.operate.record import Record
from surgeon.operate.run import run_job
from surgeon.operate.told import read_told
from surgeon.operate.work import OnEpoch, OnStage
from surgeon.progress import Track

CONTROL = "control"
"""The name of the runs that operate on nothing."""

RUN, RESULT = "run.json", "result.safetensors"
DIGITS = 12
"""Of the hash in a folder's name, hexadecimal."""

PASSING = (CheckpointError, DataError, MemoryShortageError, OutputError)
"""Failures that a run may not have another time: files, disks and memory change."""

UNEXPECTED = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What libraries and files of code raise in a run; it is not written down, since nothing tells whether it passes."""

FIGURES = ("top1", "top5", "loss", "drift", "agreement")
"""What a comparison takes from a stage."""


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        name: of the method in the comparison, or `CONTROL`; fit for a file's name.
        job: what it does. Where its outputs go is decided by the comparison.
    """

    name: str
    job: Job


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        name: see `Run`.
        seed: seed of everything random.
        folder: what it has left.
        sha256: hash of its recipe.
        record: its record, as JSON types; None where it failed.
        reason: why it failed; None where it did not.
        images: images that it has trained on, a partner's included; None where they are not known.
    """

    name: str
    seed: int
    folder: Path
    sha256: str
    record: Mapping[str, Any] | None
    reason: str | None
    images: int | None = None


@dataclass(frozen=True)
class Hooks:
    """Who is told how runs go; see `run_job`."""

    track: Track
    on_run: Callable[[Run], None]
    on_stage: OnStage
    on_epoch: OnEpoch
    say: Say


class Place:
    """Where a run is done, and found when it is over.

    Args:
        run: the run.
        folder: of the comparison.
        terms: what its result depends on beside its job's own options, as JSON types.
        images: training images of an epoch; None where they are not known.
    """

    def __init__(self, run: Run, folder: Path, terms: Mapping[str, Any], images: int | None) -> None:
        self.run = run
        self.recipe = recipe(run.job, terms)
        text = json.dumps(self.recipe, sort_keys=True, default=str)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.folder = folder / f"{run.name}-seed{run.job.seed}-{self.sha256[:DIGITS]}"
        self.job = dataclasses.replace(run.job, output=self.folder / RESULT, overwrite=True)
        self._images = images

    def outcome(self) -> Outcome | None:
        """Return what came of the run, or None where it is not over."""
        told = _read(self.folder, RUN)
        if told.get("sha256") != self.sha256:
            return None
        if told.get("reason") is not None:
            return self._outcome(None, str(told["reason"]))
        record = _read(self.folder, self.job.record.name)
        return self._outcome(record, None) if self._is_own(record) else None

    def settle(self, hooks: Hooks, *, keep_weights: bool) -> Outcome | None:
        """Return what came of the run, which is done where that is not known; None where another process is at it.

        A run that fails has failed for good, unless another time could differ (`PASSING`): then it is tried again.

        Args:
            hooks: are told how it goes.
            keep_weights: leave its weights in the folder.
        """
        known = self.outcome()
        if known is not None:
            tidy(self.folder)
            sweep(self.job)
            return known
        with claimed(self.folder, lambda: self.outcome() is not None) as mine:
            # Another process may have come to its end just now.
            return (self.outcome() or self._do(hooks, keep_weights)) if mine else None

    def _do(self, hooks: Hooks, keep_weights: bool) -> Outcome:
        states = self.job.states
        remove_leftovers(self.folder / RUN)
        record: dict[str, Any] = _read(self.folder, self.job.record.name)
        if not self._is_own(record) or (states is not None and states.path.exists()):
            hooks.on_run(self.run)
            job = dataclasses.replace(self.job, record_only=not keep_weights)
            try:
                done = self._run(job, hooks)
            except SurgeonError as error:
                # What helps a run that stands alone would be another run here.
                reason = error.problem if isinstance(error, DivergenceError) else str(error)
                if not isinstance(error, PASSING):
                    if states is not None:
                        states.remove()
                    self._check_inputs()
                    self._write(reason)
                return self._failed(reason, hooks.say)
            except BrokenPipeError:
                # Nobody reads what is said any more, which is no failure of the run.
                raise
            except UNEXPECTED as error:
                return self._failed(f"{type(error).__name__}: {shown(error)}", hooks.say)
            record = json.loads(done.to_json())
            self._check_inputs(record)
        sweep(self.job)
        self._write(None)
        return self._outcome(record, None)

    def _run(self, job: Job, hooks: Hooks) -> Record:
        def do(job: Job) -> Record:
            return run_job(job, track=hooks.track, on_stage=hooks.on_stage, on_epoch=hooks.on_epoch, say=hooks.say)

        try:
            return do(job)
        except StateError as error:
            # The folder is this run's alone, so it was only asked for in other words, or the disk has damaged it.
            hooks.say(f"{error.problem} The run begins anew.")
            return do(dataclasses.replace(job, restart=True))

    def _failed(self, reason: str, say: Say) -> Outcome:
        say(f"{self.run.name}, seed {self.run.job.seed}, failed: {reason}")
        return self._outcome(None, reason)

    def _is_own(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a record is whole, and of the files that the recipe names by their content."""
        stages, epochs, partner = (record.get(name) for name in ("stages", "epochs", "partner"))
        if not (isinstance(stages, list) and stages and isinstance(epochs, list) and isinstance(partner, dict)):
            return False
        if not all(isinstance(stage, dict) and {"seconds", *FIGURES} <= stage.keys() for stage in stages):
            return False
        source = record.get("checkpoint")
        own = source.get("sha256") if isinstance(source, dict) else None
        return (own, partner.get("sha256")) == (self.recipe.get("checkpoint"), self.recipe.get("partner"))

    def _check_inputs(self, record: Mapping[str, Any] | None = None) -> None:
        """Refuse what came of a run that may have read other files than those that its recipe names.

        Args:
            record: of the run, of which nothing stays then; None where it failed.

        Raises:
            CheckpointError: one was replaced since the comparison began.
        """
        now = files_terms(self.job)
        if (record is None or self._is_own(record)) and all(self.recipe.get(name) == now[name] for name in now):
            return
        for path in (self.job.record, self.job.result, self.job.best):
            path.unlink(missing_ok=True)
        raise CheckpointError(
            f"The checkpoint, partner or teacher of {self.run.name}, seed {self.run.job.seed}, was replaced during the "
            "comparison.",
            "Start the comparison again; the result of this run was not kept.",
        )

    def _outcome(self, record: Mapping[str, Any] | None, reason: str | None) -> Outcome:
        images = None
        if record is not None and self._images is not None:
            networks = 2 if record["partner"].get("trained") else 1
            images = self._images * len(record["epochs"]) * networks
        return Outcome(self.run.name, self.run.job.seed, self.folder, self.sha256, record, reason, images)

    def _write(self, reason: str | None) -> None:
        told = {"sha256": self.sha256, "name": self.run.name, "reason": reason, "recipe": self.recipe}
        write_text(self.folder / RUN, json.dumps(told, indent=2, default=str) + "\n", overwrite=True)


def told_runs(folder: Path) -> list[dict[str, Any]]:
    """Return what the runs have written down that ended in a comparison's folder, of other recipes as well."""
    return [told for path in sorted(folder.glob(f"*/{RUN}")) if (told := _read(path.parent, RUN))]


def _read(folder: Path, name: str) -> dict[str, Any]:
    """Return a file of JSON, or nothing where there is none that can be read."""
    try:
        # Network file systems remember for a while that a name was missing, but not what a listing holds.
        if name not in {path.name for path in folder.iterdir()}:
            return {}
        content = read_told(folder / name)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
