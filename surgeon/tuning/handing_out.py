"""What every process has kept of a run, handed out again, also to another number of processes.

N processes with batches of b images have done as many batches of an epoch as one with batches of N·b: only the sums and
the random numbers are each process's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from surgeon.processes import count, index


def own_generators(kept: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the states of this process's generators outside of an epoch; the main one's where it had none.

    Args:
        kept: of every process, at least one.
    """
    return kept[index()] if index() < len(kept) else kept[0]


def own_epoch(kept: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how far this process has come in an epoch; see `Epoch`.

    Where there are other processes now than there were, the images that were seen, and their losses, are divided anew,
    so that their sums stay what they are. A process that was not there draws on from where its epoch begins: another's
    random numbers would make it drop what that one drops.

    Args:
        kept: of every process, at least one.
    """
    if len(kept) == count():
        return dict(kept[index()])
    images, loss = (sum(own[name] for own in kept) for name in ("images", "loss"))
    share = images * (index() + 1) // count() - images * index() // count()
    generators = kept[index()]["generators"] if index() < len(kept) else None
    return {**kept[0], "images": share, "loss": loss * share / max(images, 1), "generators": generators}
