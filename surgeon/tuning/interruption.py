"""Interruptions that wait for the next safe moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Pending:
    """Whether somebody has asked the process to stop."""

    def __init__(self) -> None:
        self.arrived = False


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
