"""Interruptions that wait for the next safe moment, which is the same in all processes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor

from surgeon.processes import add_up, count, everyones

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Pending:
    """Whether somebody has asked the process to stop."""

    def __init__(self) -> None:
        self.arrived = False

    @property
    def anywhere(self) -> bool:
        """Whether that is so in any process; all of them ask together."""
        return any(everyones(self.arrived))


class Stop:
    """Tells after which update to stop: in one process after the one in which it was asked to.

    Several processes exchange what they were asked after every update, and look at it after the next one. So the host
    waits for no update that its device has only begun, and all stop after the same.

    Args:
        pending: whether this process was asked to stop.
        device: where the processes exchange it.
    """

    def __init__(self, pending: Pending, device: torch.device) -> None:
        self._pending = pending
        self._device = device
        self._exchanged: Tensor | None = None

    def after_update(self) -> bool:
        """Tell whether to stop now; all processes ask after every update."""
        if count() == 1:
            return self._pending.arrived
        before = self._exchanged
        # Not torch.tensor, which waits for the device.
        self._exchanged = add_up(torch.full((), float(self._pending.arrived), device=self._device))
        return before is not None and bool(before.item())


@contextmanager
def deferred_signals(active: bool = True) -> Iterator[Pending]:
    """Take note of the first SIGINT or SIGTERM instead of obeying it; a second one is obeyed at once.

    Signals reach the main thread alone, so nothing is deferred in any other.

    Args:
        active: whether to defer at all.

    Yields:
        What says whether one has arrived.
    """
    pending = Pending()
    if not active or threading.current_thread() is not threading.main_thread():
        yield pending
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if pending.arrived:
            raise KeyboardInterrupt
        pending.arrived = True

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
