"""Signals that arrive while a library computes which may take what they raise for an error of its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def obeyed() -> Iterator[None]:
    """Raise what a signal has raised while the context lasts, whatever became of that inside.

    Signals reach the main thread alone, so nothing is done in any other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    raised: list[BaseException] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        assert callable(handler)
        try:
            handler(number, frame)
        except BaseException as stop:
            raised.append(stop)
            raise

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if raised:
            raise raised[0]
