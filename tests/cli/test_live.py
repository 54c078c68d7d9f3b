"""What is shown while something goes on, with a clock that the test turns."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console

from surgeon.cli import live, render
from surgeon.cli.live import View
from surgeon.progress import Training
from surgeon.tuning import EpochRecord

BATCH = (torch.zeros(10, 1), torch.zeros(10))


class Clock:
    """Stands still until a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def console(*, terminal: bool) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=120, color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def record(**scores: Any) -> EpochRecord:
    known = {"top1": 45.125, "top5": 90.0, "loss": 1.5, **scores}
    return EpochRecord(epoch=0, lr=0.1, train_loss=1.75, seconds=50.0, images_per_second=8.0, **known)


def work(passes: Iterator[Any], clock: Clock, seconds: float) -> None:
    """Take every batch, and be busy with it for so many seconds."""
    for _ in passes:
        clock.now += seconds


def test_plain_lines_come_every_so_many_seconds_with_loss_scores_speed_and_time_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = console(terminal=False)
    monkeypatch.setattr(render, "ERR", plain)
    view = View(plain, clock)
    asked = []

    def loss() -> float:
        asked.append(clock.now)
        return 1.25

    # Ten batches of five seconds: one line, after the sixth.
    work(view.track([BATCH] * 10, "epoch 1/4", 100, training=Training(0, 4, loss)), clock, 5)
    # 60 of 400 images in 30 s.
    first = "   epoch 1/4   60%  loss 1.2500  2 images/s  0:02:50 left"
    assert shown(plain).splitlines() == [first]
    assert asked == [130.0]
    # An evaluation shorter than that says nothing, and counts for the time left.
    work(view.track([BATCH] * 10, "evaluating", 100), clock, 1)
    view.epoch(record())
    epoch = "    epoch   1  loss 1.7500  top-1 45.12 %  8 images/s"
    assert shown(plain).splitlines() == [first, epoch]
    work(view.track([BATCH] * 10, "epoch 2/4", 100, training=Training(1, 4, loss)), clock, 5)
    # 160 of 400 images in 90 s.
    second = "   epoch 2/4   60%  loss 1.2500  top-1 45.12 %  2 images/s  0:02:15 left"
    assert shown(plain).splitlines() == [first, epoch, second]
    # The next target's fine-tuning has a time of its own, and no scores yet.
    work(view.track([BATCH] * 10, "epoch 1/4", 100, training=Training(0, 4, loss)), clock, 5)
    assert shown(plain).splitlines()[3:] == [first]


def test_a_resumed_fine_tuning_counts_from_where_it_began(clock: Clock) -> None:
    plain = console(terminal=False)
    training = Training(2, 4, lambda: 0.5)
    work(View(plain, clock).track([BATCH] * 10, "epoch 3/4", 100, training=training), clock, 5)
    # 60 images of the 200 that are left, in 30 s.
    assert shown(plain).splitlines() == ["   epoch 3/4   60%  loss 0.5000  2 images/s  0:01:10 left"]


def test_a_fine_tuning_that_goes_on_within_an_epoch_counts_from_there(clock: Clock) -> None:
    plain = console(terminal=False)
    view = View(plain, clock)
    # Of an epoch of 100 images 20 were seen before; 60 take 30 s, and 20 of this epoch and 100 of the next are left.
    work(view.track([BATCH] * 8, "epoch 3/4", 80, training=Training(2, 4, lambda: 0.5, 20)), clock, 5)
    assert shown(plain).splitlines() == ["   epoch 3/4   80%  loss 0.5000  2 images/s  0:01:00 left"]
    work(view.track([BATCH] * 10, "epoch 4/4", 100, training=Training(3, 4, lambda: 0.5)), clock, 5)
    # 140 images in 70 s.
    assert shown(plain).splitlines()[1:] == ["   epoch 4/4   60%  loss 0.5000  2 images/s  0:00:20 left"]


def test_several_processes_show_the_speed_of_all_of_them(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = console(terminal=False)
    monkeypatch.setattr(live, "count", lambda: 3)
    # A third of 120 images, in a third of the time.
    work(View(plain, clock).track([BATCH] * 4, "measuring", 40), clock, 10)
    assert shown(plain).splitlines() == ["   measuring   75%  3 images/s  0:00:10 left"]


def test_other_passes_show_their_own_time_left_and_streams_none(clock: Clock) -> None:
    plain = console(terminal=False)
    view = View(plain, clock)
    work(view.track([BATCH] * 4, "measuring", 40), clock, 10)
    work(view.track([BATCH] * 4, "measuring"), clock, 10)
    assert shown(plain).splitlines() == ["   measuring   75%  1 images/s  0:00:10 left", "   measuring  1 images/s"]


def test_a_terminal_has_one_live_line_that_goes_away(clock: Clock) -> None:
    terminal = console(terminal=True)
    losses = iter([2.0, 1.0])
    passes = View(terminal, clock).track([BATCH] * 4, "epoch 1/2", 40, training=Training(0, 2, lambda: next(losses)))
    for _ in range(2):
        # A batch is done when the next one is asked for.
        next(passes)
        clock.now += 0.5
    assert "loss" not in shown(terminal)
    next(passes)
    clock.now += 0.5
    assert "epoch 1/2" in shown(terminal)
    assert " 50%  loss 2.0000  20 images/s  0:00:03 left" in shown(terminal)
    work(passes, clock, 0.5)
    assert "100%  loss 1.0000  20 images/s  0:00:02 left" in shown(terminal)
    # Transient: the last thing it does is to erase the line.
    assert shown(terminal).endswith("\x1b[2K")


def test_batches_of_any_structure_are_counted(clock: Clock) -> None:
    plain = console(terminal=False)
    detection = ([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], [{}, {}])
    work(View(plain, clock).track([detection], "evaluating", 4), clock, 40)
    assert shown(plain).splitlines() == ["  evaluating   50%  0 images/s  0:00:40 left"]


def test_figures_of_another_task_stand_by_their_names() -> None:
    other = record(top1=None, top5=None, loss=None, metrics={"mean IoU": 0.51234, "pixels right": 90.0})
    assert render.epoch_scores(other) == "mean IoU 0.5123  pixels right 90"
