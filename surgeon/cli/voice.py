"""One voice for several processes: the main one talks, and of those that fail the first says why."""

import os
import sys
from datetime import timedelta

import click

from surgeon.printable import printable_lines

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Where launchers tell a process its number."""

PATIENCE = timedelta(seconds=5)
"""For the place where the processes meet, which may be gone already."""


def is_main() -> bool:
    """Tell whether this is the process that talks; a process without a number is."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def say(text: str) -> None:
    """Print a line for the reader, before anything is imported that could print it better."""
    if is_main():
        click.echo(printable_lines(text), err=True)


def echo(text: str) -> None:
    """Print a result to stdout: to a program byte for byte, and to a terminal without what would command it."""
    harmless = printable_lines(text)
    if harmless == text or sys.stdout.isatty():
        click.echo(harmless)
    else:
        # A file's name may be no text in any encoding, and click would take colours out of it.
        click.echo(os.fsencode(text))


def fails_first(*, alone: bool = False) -> bool:
    """Tell whether this process is the first to fail; the others fail because of it, or of the same.

    Args:
        alone: this process fails since it has lost another one, which may have been the main one and kept the place
            where they meet.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from torch.distributed import TCPStore

    try:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=PATIENCE)
        return bool(store.add("surgeon/failed", 1) == 1)
    except (LookupError, ValueError, RuntimeError):
        # Where the processes cannot meet, the main one has to know, or whoever is left.
        return alone or is_main()


def part() -> None:
    """Leave the other processes in good order, at the end of a run."""
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
