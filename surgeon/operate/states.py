"""The folder that keeps the states of a run until it has ended, so that it can go on from the last one."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgeon.bounded_file import read_text
from surgeon.bounded_json import parse
from surgeon.checkpoint import write_text
from surgeon.checkpoint.tree_file import read_label, read_tree, write_tree
from surgeon.checkpoint.write import LEFTOVER
from surgeon.errors import CheckpointError, OutputError, StateError
from surgeon.processes import is_main
from surgeon.tuning import State

KEPT = 2
"""States that are kept: the newest, and one more should the disk spoil that."""

FORMAT = 4
"""Grows whenever a state's structure or meaning changes."""

NAME = re.compile(r"state-(\d{8})\.safetensors")
OUTPUTS = "outputs"
"""A list in JSON of files that the run has begun to write, as they are seen from the folder's own."""

FINISHED = "finished"
"""What stands in the place of that list when all of them are complete and the rest is only to be removed."""

UNREADABLE = "unreadable"
"""A list in JSON of the images that are left out, as far as the run has come: for each set their indices."""

LONGEST_LIST = 2**16
LONGEST_UNREADABLE = 2**24

MOST_VALUES, DEEPEST = 2**20, 2
"""Of either list: as many are a tenth of ten million images."""


class StateFolder:
    """A folder of states, of which only files of its own names are ever read or removed.

    Args:
        path: the folder; made with the first state.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest(
        self, run: str, say: Callable[[str], None], differences: Callable[[State], str] = lambda state: ""
    ) -> State | None:
        """Return the newest state, or None where there is none.

        Args:
            run: tells the run from others; see `Identity`.
            say: is told of a state that is damaged.
            differences: tells in words what a state's run has that this one has not.

        Raises:
            StateError: the states are those of another run, or all of them are damaged.
            OutputError: the path is no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is no folder, and the run's states belong there.", "Write elsewhere.")
        paths = self._states()
        for path in reversed(paths):
            try:
                state = read_tree(path)
                if state.get("format") != FORMAT:
                    raise StateError(
                        f"The folder {self.path} keeps the state of another version of surgeon.",
                        "Begin anew with --restart, or go on with that version.",
                    )
                if state["run"] != run:
                    different = differences(state)
                    raise StateError(
                        f"The folder {self.path} keeps the state of another run{different and f', with {different}'}.",
                        "Begin anew with --restart, or write elsewhere with -o.",
                    )
            except (CheckpointError, AttributeError, TypeError, KeyError):
                say(f"The state {path} is damaged, so the one before it is taken.")
                continue
            return dict(state)
        if paths:
            raise StateError(f"No state in {self.path} is sound.", "Begin anew with --restart.")
        return None

    def marked(self, mark: str) -> State | None:
        """Return the state of this mark, where it is here and sound."""
        for path in reversed(self._states()):
            with contextlib.suppress(CheckpointError, AttributeError):
                state = read_tree(path)
                if state.get("mark") == mark:
                    return dict(state)
        return None

    def write(self, run: str, state: State) -> None:
        """Keep a state, and drop all but the newest; only the main process does.

        Raises:
            OutputError: it cannot be written.
        """
        if not is_main():
            return
        self.make()
        self._sweep()
        number = max((int(path.stem[-8:]) for path in self._states()), default=0) + 1
        write_tree(
            self.path / f"state-{number:08d}.safetensors",
            {"format": FORMAT, "run": run, "mark": secrets.token_hex(16), **state},
            label=state.get("terms"),
        )
        for path in self._states()[:-KEPT]:
            path.unlink(missing_ok=True)

    @property
    def terms(self) -> Mapping[str, Any]:
        """The terms of the newest state's run, see `Identity`, without a look at the rest; {} where there is none."""
        paths = self._states()
        return read_label(paths[-1]) if paths else {}

    def announce(self, *outputs: Path) -> None:
        """Take down that these files are being written now: the same run may replace them another time.

        Raises:
            OutputError: it cannot be taken down.
        """
        if is_main():
            self.make()
            places = sorted({*self._announced(), *(self._place(path) for path in outputs)})
            write_text(self.path / OUTPUTS, json.dumps(places), overwrite=True)

    def announced(self, output: Path) -> bool:
        """Tell whether a run that did not come to its end may have written this file."""
        return self._place(output) in self._announced()

    def take_down(self, unreadable: Sequence[Sequence[int]]) -> None:
        """Keep which images of every set are left out; only the main process does.

        Raises:
            OutputError: it cannot be written.
        """
        if is_main():
            self.make()
            write_text(self.path / UNREADABLE, json.dumps(unreadable), overwrite=True)

    @property
    def unreadable(self) -> list[list[int]]:
        """What `take_down` has kept; [] where there is nothing."""
        sets = self._read(UNREADABLE, LONGEST_UNREADABLE)
        whole = isinstance(sets, list) and all(isinstance(one, list) for one in sets)
        return [[index for index in one if type(index) is int] for one in sets] if whole else []

    def drop_states(self) -> None:
        """Remove the states, so that the next run begins anew."""
        if is_main() and self.path.is_dir():
            self._sweep()
            for path in (*self._states(), self.path / UNREADABLE):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything that a run has kept, and the folder if it holds nothing else."""
        if not is_main() or not self.path.is_dir():
            return
        # First of all: outputs that are complete are not the run's to replace any more.
        try:
            write_text(self.path / OUTPUTS, json.dumps(FINISHED), overwrite=True)
        except OutputError:
            # There is no room for another word.
            (self.path / OUTPUTS).unlink(missing_ok=True)
        self.drop_states()
        (self.path / OUTPUTS).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def tidy(self) -> None:
        """Remove what a run that was killed while it removed everything has left."""
        if self._listed() == FINISHED:
            self.remove()

    @property
    def holds_state(self) -> bool:
        """Whether there is anything to go on from."""
        return bool(self._states())

    def _place(self, path: Path) -> str:
        """Return where a path is, in a way that holds when everything is moved together."""
        whole, home = os.path.abspath(path), os.path.abspath(self.path.parent)
        try:
            return Path(os.path.relpath(whole, home)).as_posix()
        except ValueError:
            # On another drive.
            return whole

    def _announced(self) -> list[str]:
        places = self._listed()
        return [place for place in places if isinstance(place, str)] if isinstance(places, list) else []

    def _listed(self) -> Any:
        return self._read(OUTPUTS, LONGEST_LIST)

    def _read(self, name: str, longest: int) -> Any:
        """Return what a file of JSON says, or None where there is none that can be read."""
        try:
            return parse(read_text(self.path / name, longest), most=MOST_VALUES, deepest=DEEPEST)
        except (OSError, ValueError):
            return None

    def make(self) -> None:
        """Make the folder where it is missing.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"The folder {self.path} cannot be made: {error.strerror}.", "Write elsewhere with -o."
            ) from error

    def _states(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if NAME.fullmatch(path.name))

    def _sweep(self) -> None:
        """Remove what a run that was killed while it wrote has left."""
        for path in list(self.path.iterdir()):
            if LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)
