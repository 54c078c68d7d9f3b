"""The figures of a run as events for TensorBoard."""

import errno
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from surgeon.errors import OutputError
from surgeon.operate.record import Stage
from surgeon.processes import is_main
from surgeon.tuning import EpochRecord

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What may pass by itself, while any other reason why nothing can be opened is better told before hours of work."""


class Events:
    """Writes events; nothing appears before the first stage has ended, and from the main process alone.

    Where they cannot be written any more, the run goes on without them.

    The step of every figure is the number of epochs of fine-tuning that are over, all targets together.

    Args:
        directory: where to.
        options: what the run was asked for, kept as text beside the figures.
        say: is told when events cannot be written any more.

    Raises:
        OutputError: the directory is a file.
    """

    def __init__(self, directory: Path, options: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._directory = directory
        self._options = options
        self._say = say
        self._failed = False
        self._writer: SummaryWriter | None = None
        self._epochs = 0
        self._resumed: int | None = None
        if directory.exists() and not directory.is_dir():
            raise OutputError(f"{directory} is not a directory.", "Give another one with --tensorboard.")

    def resume(self, epochs: int) -> None:
        """Go on after so many epochs; what an interrupted run has written of later ones is not shown any more."""
        self._epochs = self._resumed = epochs

    def stage(self, stage: Stage) -> None:
        """Write the figures of a finished stage under its name."""
        figures = {name: getattr(stage, name) for name in ("top1", "top5", "loss", "drift", "agreement")}
        self._write(stage.name, {**figures, **stage.metrics})

    def epoch(self, record: EpochRecord) -> None:
        """Write the figures of a finished epoch."""
        self._epochs += 1
        speed = {"images_per_second": record.images_per_second}
        self._write("train", {"loss": record.train_loss, "lr": record.lr, **speed})
        self._write("val", {"top1": record.top1, "top5": record.top5, "loss": record.loss, **record.metrics})

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            with self._passing_over():
                self._writer.close()

    def _write(self, group: str, figures: Mapping[str, float | None]) -> None:
        if not is_main() or self._failed:
            return
        with self._passing_over():
            writer = self._writer or self._open()
            for name, value in figures.items():
                if value is not None:
                    writer.add_scalar(f"{group}/{name}", value, self._epochs)
            # A run that is killed leaves the events of all that was finished.
            writer.flush()

    @contextmanager
    def _passing_over(self) -> Iterator[None]:
        """Go on without events where they cannot be written; of its thread, TensorBoard would print a traceback."""
        before = threading.excepthook
        threading.excepthook = lambda failed: None if _is_of_disk(failed.exc_value) else before(failed)
        try:
            yield
        except Exception as error:  # Of the disk; any other is raised again.
            if not _is_of_disk(error):
                raise
            if not self._failed:
                self._say(f"No more events are written to {self._directory}: {_reason(error)}.")
            self._failed = True
        finally:
            threading.excepthook = before

    def _open(self) -> SummaryWriter:
        try:
            purged = None if self._resumed is None else self._resumed + 1
            writer = SummaryWriter(str(self._directory), purge_step=purged)
        except Exception as error:  # Of the disk; any other is raised again.
            if not _is_of_disk(error) or getattr(error, "errno", None) in NO_ROOM:
                raise
            raise OutputError(
                f"No events can be written to {self._directory}: {_reason(error)}.",
                "Give another directory with --tensorboard.",
            ) from error
        self._writer = writer
        # TensorBoard reads Markdown, in which an indented line is shown as it is.
        text = json.dumps(self._options, indent=2, default=str)
        writer.add_text("options", "\n".join(f"    {line}" for line in text.splitlines()), 0)
        return writer


def _is_of_disk(error: BaseException | None) -> bool:
    """Tell whether an error is one of files; where TensorFlow is installed, TensorBoard raises errors of that."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "tensorflow"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
