"""Images of a set that cannot be read and are to be left out: which they are, known to all processes that read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from surgeon.errors import DataError

MOST = 0.1
"""Share of the images that may be left out: where more cannot be read, something is wrong with the disk or the path."""


class UnreadableImageError(DataError):
    """An image cannot be read.

    A worker of a DataLoader can hand on an exception only by its type and one text, in which it buries what the
    exception said under a traceback. So this kind has one argument, and finds its own words again.

    Args:
        problem: one sentence, or a text with a traceback that ends in this exception.
    """

    REMEDY = "Repair or remove that image, or leave it out with --skip-bad-images (in Python: skip_bad_images=True)."

    def __init__(self, problem: str) -> None:
        own = problem.rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(own.strip().removesuffix(self.REMEDY).strip(), self.REMEDY)


class UnreadableImagesError(UnreadableImageError):
    """So many images cannot be read that what is left is another data set."""

    REMEDY = "Check the disk and the images; a few that are damaged may be left out, but not so many."


class Unreadable:
    """The images of a set that were found to be unreadable.

    They are marked in memory that the workers of a DataLoader share with the process that started them.

    Args:
        count: images of the set.
    """

    def __init__(self, count: int) -> None:
        self._marks = torch.zeros(count, dtype=torch.uint8).share_memory_()

    def add(self, index: int) -> None:
        """Mark an image, for good: what stands in its place is then the same in every epoch."""
        self._marks[index] = 1

    def __contains__(self, index: int) -> bool:
        return bool(self._marks[index])

    @property
    def found(self) -> list[int]:
        """The indices of all of them so far, ascending."""
        return self._marks.nonzero().flatten().tolist()

    def check(self, indices: Tensor) -> None:
        """Refuse to go on with too few of some images.

        Args:
            indices: [N] int64, those that are used.

        Raises:
            UnreadableImagesError: more than `MOST` of them cannot be read.
        """
        bad = int(self._marks[indices].sum())
        if bad > MOST * len(indices):
            raise UnreadableImagesError(
                f"{bad} of {len(indices)} images cannot be read, more than the {100 * MOST:.0f} % that may be left out."
            )


def stand_ins(place: int, labels: Tensor) -> Sequence[int]:
    """Return the places of what may stand in for an image: those of its class, from the next one on and around.

    So the number of images and of those of every class stay what they are, and with them batches, epochs, and each
    process's share of them.

    Args:
        place: of the image.
        labels: [N] int64, of all images that are used.
    """
    alike = (labels == labels[place]).nonzero().flatten()
    later = alike > place
    return [*alike[later].tolist(), *alike[alike < place].tolist()]
