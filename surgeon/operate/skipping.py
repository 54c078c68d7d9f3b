"""Images that a run leaves out since they cannot be read: each is named once, kept with the states, and counted."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from surgeon.data import ImageData
from surgeon.operate.states import StateFolder
from surgeon.processes import everyones
from surgeon.progress import Track, Training

MOST_NAMES = 10
"""Images that a note names."""

LEFT_OUT = "left out, and others of the same class stand in"
"""What the note says of them, by which it is known."""


class Skipping:
    """Watches which images of a data set turn out to be unreadable.

    Args:
        data: the images; where an unreadable one of them is an error, there is nothing to watch.
        say: is told the name of each image that is left out.
        states: keeps what was found, so that a run that goes on leaves out the same, though it reads other images than
            it had before; None where no states are kept.
    """

    def __init__(self, data: ImageData | None, say: Callable[[str], None], states: StateFolder | None = None) -> None:
        self._sets = () if data is None else data.skipping
        self._say = say
        self._states = states
        kept = [] if states is None else states.unreadable
        for (images, unreadable), indices in zip(self._sets, kept, strict=False):
            for index in indices:
                if 0 <= index < len(images.labels):
                    unreadable.add(index)
        self._known = [set(unreadable.found) for _, unreadable in self._sets]

    def watched(self, track: Track) -> Track:
        """Return what reports batches as `track` does, and looks after each for images that were left out of it."""
        if not self._sets:
            return track

        def tracked(
            batches: Iterable[Any],
            description: str,
            total_images: int | None = None,
            *,
            training: Training | None = None,
        ) -> Iterator[Any]:
            for batch in track(batches, description, total_images, training=training):
                # Before anybody can keep a state in which this batch was read.
                self._look()
                yield batch

        return tracked

    def finish(self) -> tuple[int, tuple[str, ...]]:
        """Return how many images were left out, and a note about them; all processes call this together."""
        if not self._sets:
            return 0, ()
        self._look()
        found = [sorted(set().union(*each)) for each in zip(*everyones(self._known), strict=True)]
        # Sorted, since it depends on the seed in which set an image is, and a comparison compares these notes.
        names = sorted(images.shown(index) for (images, _), own in zip(self._sets, found, strict=True) for index in own)
        if not names:
            return 0, ()
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        what = "1 image that cannot be read was" if len(names) == 1 else f"{len(names)} images that cannot be read were"
        note = f"{what} {LEFT_OUT}: {', '.join(names[:MOST_NAMES])}{more}."
        return len(names), (note,)

    def _look(self) -> None:
        found = [unreadable.found for _, unreadable in self._sets]
        if [len(own) for own in found] == [len(own) for own in self._known]:
            return
        for (images, _), own, known in zip(self._sets, found, self._known, strict=True):
            for index in own:
                if index not in known:
                    self._say(f"The image {images.shown(index)} cannot be read and is left out.")
            known.update(own)
        if self._states is not None:
            self._states.take_down(found)
