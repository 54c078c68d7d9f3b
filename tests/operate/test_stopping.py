"""What a signal raises comes out, whatever a library makes of it."""

import contextlib
import os
import signal

import pytest

from surgeon.operate.stopping import obeyed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def turned_into_an_error() -> None:
    try:
        interrupt()
    except KeyboardInterrupt as error:
        raise ValueError("the library's own") from error


def swallowed() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize("library", [interrupt, turned_into_an_error, swallowed])
def test_an_interruption_comes_out_as_one(library) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), obeyed():
        library()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_without_a_signal_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="own"), obeyed():
        raise ValueError("own")
