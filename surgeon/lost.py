"""What to say when a process is gone that this one needs: one that reads images, or another one of the run."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from surgeon.errors import LostProcessError

WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>\d+))?)"
)
HANDING_OVER = ("torch.multiprocessing", "multiprocessing")
"""Modules that fetch a batch from the worker that has made it, which fails in their words where that is gone."""

IN_THREAD = re.compile(r"^Caught (Connection\w+Error|EOFError|FileNotFoundError) in pin memory thread")

PATIENCE = 0.5
"""Seconds."""

PEER = re.compile(
    r"gloo/transport|Connection closed by peer|failed to recv, got 0 bytes|remote process exited|"
    r"Timed out waiting \d+ms"
)
"""What torch's backends say when another process has closed its end of a connection, or does not answer."""

OF_A_WORKER = (
    "The same command continues the run, if it had begun to train; with --workers 0 the images are read in the main "
    "process, where more can be said about a failure."
)
OF_A_PEER = (
    "Its own message says why, if it had time for one; the same command continues the run, if it had begun to train."
)


def lost_process(error: BaseException) -> LostProcessError | None:
    """Return what an error says in plain words, where it says that a process is gone."""
    if isinstance(error, (OSError, EOFError)):
        return _dead_worker() if IN_THREAD.match(str(error)) or _is_handed_over(error) else None
    if not isinstance(error, RuntimeError):
        return None
    # That a worker has gone may be all that torch says in the end, and why is the cause of that.
    texts = [str(one) for one in (error.__cause__, error) if one is not None]
    worker = next((found for text in texts if (found := WORKER.search(text))), None)
    if worker is not None:
        return _dead_worker(worker["signal"] or (f"exit code {worker['code']}" if worker["code"] else ""))
    if any(PEER.search(text) for text in texts):
        return LostProcessError("Another process of this run has ended, or cannot be reached any more.", OF_A_PEER)
    return None


def _settled(error: BaseException) -> BaseException:
    """Return what torch says of a worker that was found gone: it hears of a death by a signal, a little later.

    It then raises an error wherever the program is, which is better done here than in what is said or put in order.
    """
    if isinstance(error, RuntimeError) or not _is_handed_over(error):
        return error
    try:
        time.sleep(PATIENCE)
    except RuntimeError as told:
        return told
    return error


def _dead_worker(why: str = "") -> LostProcessError:
    return LostProcessError(f"A process that reads images has died{why and f' ({why.strip()})'}.", OF_A_WORKER)


def _is_handed_over(error: BaseException) -> bool:
    """Tell whether an error came up while a loader fetched a batch from one of its workers."""
    names = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    loading = any(name.startswith("torch.utils.data.dataloader") for name in names)
    return loading and any(name.startswith(HANDING_OVER) for name in names)


@contextmanager
def named_loss() -> Iterator[None]:
    """Say plainly when a process is gone, in place of what torch says; also as a decorator.

    It goes around `named_shortage`, which knows better why a worker was killed.

    Raises:
        LostProcessError: it is.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        lost = lost_process(_settled(error))
        if lost is None:
            raise
        raise lost from error
