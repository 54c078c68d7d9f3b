"""How a long loop tells that it moves, without knowing who listens."""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Training:
    """Where a pass over training images stands.

    Attributes:
        epoch: number of the epoch, from 0.
        epochs: how many there will be.
        loss: returns the mean training loss of the epoch so far. It makes the host wait for the device, so it is to be
            asked every so many batches only, and not before the first of them is done.
        done: images of the epoch that were trained on before this pass, where a run goes on within an epoch.
        phase: what is trained, in a word or two; None for the network as it is.
    """

    epoch: int
    epochs: int
    loss: Callable[[], float]
    done: int = 0
    phase: str | None = None


class Track(Protocol):
    """`track(batches, description, total_images)` yields the batches and reports each one as it is consumed."""

    def __call__(
        self,
        batches: Iterable[Any],
        description: str,
        total_images: int | None = None,
        *,
        training: Training | None = None,
    ) -> Iterator[Any]:
        """Yield the batches.

        Args:
            batches: batches of images.
            description: what is done with them, in a word or two.
            total_images: how many images they have together, where that is known; of several processes, in this one.
            training: where the fine-tuning stands, when the batches are trained on.
        """


def no_progress(
    batches: Iterable[Any], description: str, total_images: int | None = None, *, training: Training | None = None
) -> Iterator[Any]:
    """Yield the batches and report nothing."""
    del description, total_images, training
    yield from batches


def count_images(batches: Any) -> int | None:
    """Count the images of one pass over batches, or return None where they do not tell.

    Args:
        batches: a DataLoader, whose data set is asked, or anything else, which does not tell.
    """
    dataset = getattr(batches, "dataset", None)
    try:
        if getattr(batches, "drop_last", False) and batches.batch_size is not None:
            return int(len(batches) * batches.batch_size)
        return len(dataset) if isinstance(dataset, Sized) else None
    except TypeError:
        # A stream may have the method and yet no length.
        return None
