"""What is said about how long a job without images takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.exemplars import Effort
from surgeon.methods import make_config
from surgeon.operate.inputs import Say, find_method, rounds
from surgeon.operate.job import Job
from surgeon.operate.stages import DRIFT_IMAGES
from surgeon.tuning.modes import has_batch_norm

REPORT_AFTER = 5.0
"""Seconds of work after which what was said is held against what was really measured."""

REPORT_FACTOR, REPORT_SECONDS = 1.5, 20.0
"""It is corrected where it is wrong by more than this factor, and by more than so many seconds."""


@dataclass(frozen=True)
class Passes:
    """What follows a synthesis, in passes over all exemplars.

    Args:
        forward: answers alone.
        training: forward and back to the weights.
    """

    forward: float
    training: float

    def seconds(self, effort: Effort, count: int) -> float:
        """Return how long they take with `count` exemplars."""
        return count * (self.forward * effort.forward + self.training * effort.training)


def count_passes(job: Job, model: nn.Module, graph: CouplingGraph | None, count: int, only_plan: bool) -> Passes:
    """Count the passes over the exemplars that a job makes once it has them.

    Args:
        job: what to do, with a method.
        model: its network.
        graph: the network's coupling graph.
        count: number of exemplars.
        only_plan: the job is only planned.
    """
    assert job.method is not None
    assert graph is not None
    method = find_method(job.method)
    config = make_config(method, job.options)
    targets = 1 if job.plan is not None else len(rounds(method, graph, job.layers))
    # One pass finds out which exemplars are recognized.
    measured = int(job.plan is None and method.measures(config) is not None)
    if only_plan:
        return Passes(1 + targets * measured, 0)
    recalibrated = int(job.recalibrate and has_batch_norm(model))
    every = getattr(config, "every", None)
    repeated = (job.epochs - 1) // every if every and job.epochs else 0
    # Agreement and drift, of which the network as it came is the measure; in every epoch, and after each operation.
    compared = 1 + targets * (1 + recalibrated + job.epochs)
    figures = compared * min(1.0, DRIFT_IMAGES / count)
    taught = job.epochs * int(job.teacher is not None)
    answers = 1 + targets * ((measured + recalibrated) * (1 + repeated) + taught)
    return Passes(answers + figures, targets * job.epochs)


class Forecast:
    """Says how long everything takes, and again where it turns out otherwise.

    Args:
        synthesis: seconds of the synthesis, as expected.
        later: seconds of what follows it.
        say: is told.
        clock: returns seconds.
    """

    def __init__(
        self, synthesis: float, later: float, say: Say, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._expected, self._said, self._later = synthesis, synthesis, later
        self._say, self._clock = say, clock
        self._start: float | None = None

    def begin(self, what: str) -> None:
        """Say what is made, in about how much time, and start to count."""
        self._say(
            f"{what} in about {in_words(self._expected)}; everything together takes about "
            f"{in_words(self._expected + self._later)}."
        )
        self._start = self._clock()

    def on_step(self, share: float) -> None:
        """Correct what was said, where by the share of the synthesis that is done it was far too little or too much."""
        assert self._start is not None
        passed = self._clock() - self._start
        if passed < REPORT_AFTER or share >= 1:
            return
        whole = passed / share
        more, less = max(whole, self._said), min(whole, self._said)
        if more > REPORT_FACTOR * less and more - less > REPORT_SECONDS:
            self._said = whole
            # A busy machine slows what follows down as well; that a step is cheaper than expected does not speed it up.
            later = self._later * max(1.0, whole / self._expected)
            self._say(
                f"By the speed so far the exemplars are ready in {in_words(whole - passed)}, and everything in "
                f"{in_words(whole - passed + later)}."
            )


def in_words(seconds: float) -> str:
    """Return seconds, or minutes where they are many."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
