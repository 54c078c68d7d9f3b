"""What the user sees while something goes on: a live line in a terminal, and a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from surgeon.cli.render import epoch_line, epoch_scores
from surgeon.printable import printable
from surgeon.processes import count, is_main
from surgeon.progress import Training
from surgeon.tuning import EpochRecord
from surgeon.tuning.batches import images_in

LIVE_SECONDS = 1.0
"""How often a terminal's line shows new figures: reading the loss makes the host wait for the device."""

PLAIN_SECONDS = 30.0
"""How often a long pass adds a line to what is no terminal."""


@dataclass
class _Pass:
    """A pass over this process's images: what is done with them, since when, and how many there have been."""

    description: str
    total: int | None
    training: Training | None
    start: float
    images: int = 0

    @property
    def share(self) -> float | None:
        """How much of the pass is over, or of the epoch that it is the rest of, in 0 … 1, where that is known."""
        return min((self._before + self.images) / (self._before + self.total), 1.0) if self.total else None

    @property
    def begun(self) -> float:
        """How much of the epoch was over before."""
        return self._before / (self._before + self.total) if self.total else 0.0

    @property
    def _before(self) -> int:
        return 0 if self.training is None else self.training.done


def _text(form: str) -> TextColumn:
    return TextColumn(form, markup=False)


class View:
    """Shows how a run goes, from the main process alone.

    Args:
        console: where to; what it is decides whether there is a live line.
        clock: returns seconds that never go back.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._seconds = LIVE_SECONDS if console.is_terminal else PLAIN_SECONDS
        self._scores = ""
        self._fine_tuning: tuple[float, float] | None = None

    def track(
        self,
        batches: Iterable[Any],
        description: str,
        total_images: int | None = None,
        *,
        training: Training | None = None,
    ) -> Iterator[Any]:
        """Yield the batches, and show how many images there have been, how fast, and when it will all be over."""
        if not is_main():
            yield from batches
            return
        one = _Pass(description, total_images, training, self._clock())
        self._note_start(one)
        columns = (_text("{task.description:>12}"), BarColumn(), _text("{task.fields[figures]}"))
        live = self._console.is_terminal
        bar = Progress(*columns, console=self._console, transient=True)
        task = bar.add_task(printable(description), total=total_images, figures="")
        # Even one that shows nothing ends with an empty line in some versions.
        with bar if live else nullcontext():
            shown = one.start
            for batch in batches:
                yield batch
                one.images += images_in(batch)
                bar.update(task, completed=one.images)
                now = self._clock()
                if now - shown < self._seconds:
                    continue
                shown = now
                figures = printable("  ".join(self._figures(one, now)))
                if live:
                    bar.update(task, figures=figures, refresh=True)
                else:
                    self._console.print(f"{description:>12}  {figures}", highlight=False, soft_wrap=True)

    def epoch(self, record: EpochRecord) -> None:
        """Print one finished epoch of fine-tuning, and go on showing its scores."""
        self._scores = epoch_scores(record)
        epoch_line(record)

    def _note_start(self, one: _Pass) -> None:
        """Remember with which epoch and when the fine-tuning began; every target has one of its own."""
        if one.training is not None and (self._fine_tuning is None or one.training.epoch <= self._fine_tuning[0]):
            self._fine_tuning = one.training.epoch + one.begun, one.start
            self._scores = ""

    def _figures(self, one: _Pass, now: float) -> Iterator[str]:
        if one.share is not None:
            yield f"{one.share:4.0%}"
        if one.training is not None:
            if one.training.phase is not None:
                yield one.training.phase
            yield f"loss {one.training.loss():.4f}"
            if self._scores:
                yield self._scores
        yield f"{count() * one.images / (now - one.start):,.0f} images/s"
        left = self._seconds_left(one, now)
        if left is not None:
            yield f"{timedelta(seconds=round(left))} left"

    def _seconds_left(self, one: _Pass, now: float) -> float | None:
        """Estimate when the pass is over, or the whole fine-tuning that it belongs to, evaluations included."""
        if one.share is None:
            return None
        if one.training is None or self._fine_tuning is None:
            return (now - one.start) * (1 - one.share) / one.share
        first, start = self._fine_tuning
        done = one.training.epoch + one.share
        return (now - start) * (one.training.epochs - done) / (done - first)
