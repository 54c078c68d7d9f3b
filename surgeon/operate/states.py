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
from surgeon.checkpoint.write import LEFTOVER, remove_output, sha256_of, sync_folder
from surgeon.errors import CheckpointError, OutputError, StateError
from surgeon.processes import is_main
from surgeon.tuning import State

KEPT = 2
"""States that are kept: the newest, and one more should the disk spoil that."""

FORMAT = 4
"""Grows whenever a state's structure or meaning changes."""

NAME = re.compile(r"state-(\d{8})\.safetensors")
OUTPUTS = "outputs"
"""In JSON, the SHA-256s of files that the run has begun to write, by where they are seen from the folder's own."""

FINISHED = "finished"
"""What stands in the place of that when all of them are complete and the rest is only to be removed."""

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
        self._damaged: set[Path] = set()

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
                self._damaged.add(path)
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
        """Keep a state, and drop all but the newest that are sound, as far as that can be done; only the main process.

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
        sound = [path for path in self._states() if path not in self._damaged]
        # A damaged one stands for none, and went only now in case that it could be read another time.
        for path in (*self._damaged, *sound[:-KEPT]):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def terms(self) -> Mapping[str, Any]:
        """The terms of the newest state's run, see `Identity`, without a look at the rest; {} where there is none."""
        paths = self._states()
        return read_label(paths[-1]) if paths else {}

    def announce(self, outputs: Mapping[Path, str]) -> None:
        """Take down what is about to be written: the same run may replace just that another time.

        Args:
            outputs: the SHA-256 of each file that will be there.

        Raises:
            OutputError: it cannot be taken down.
        """
        if not is_main():
            return
        self.make()
        announced = self._announced()
        for path, sha256 in outputs.items():
            place = self._place(path)
            # What an earlier try has written stands there until this one has.
            announced[place] = sorted({sha256, *_present(path, announced.get(place, []))})
        write_text(self.path / OUTPUTS, json.dumps(announced), overwrite=True)

    def announced(self, output: Path) -> bool:
        """Tell whether a file is what a run that did not come to its end has written there."""
        return bool(_present(output, self._announced().get(self._place(output), [])))

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
        """Remove the states, so that the next run begins anew.

        Raises:
            OutputError: one cannot be removed.
        """
        if is_main() and self.path.is_dir():
            self._sweep()
            for path in (*self._states(), self.path / UNREADABLE):
                remove_output(path)

    def remove(self) -> None:
        """Remove everything that a run has kept, and the folder if it holds nothing else.

        Raises:
            OutputError: something cannot be removed; nothing of it counts any more.
        """
        if not is_main() or not self.path.is_dir():
            return
        # First of all: outputs that are complete are not the run's to replace any more.
        try:
            write_text(self.path / OUTPUTS, json.dumps(FINISHED), overwrite=True)
        except OutputError:
            # There is no room for another word.
            self.forget()
        self.drop_states()
        self.forget()
        self.leave()

    def forget(self) -> None:
        """Give up the right to replace what was announced: it is complete.

        Raises:
            OutputError: that cannot be taken down.
        """
        if is_main() and self.path.is_dir():
            self._sweep()
            remove_output(self.path / OUTPUTS)

    def leave(self) -> None:
        """Remove the folder if it holds nothing."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def tidy(self) -> None:
        """Remove what a run that was killed while it removed everything has left, as far as that can be done."""
        if self._listed() == FINISHED:
            with contextlib.suppress(OutputError):
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

    def _announced(self) -> dict[str, list[Any]]:
        """Return the SHA-256s of what was to be written, by its place."""
        places = self._listed()
        if not isinstance(places, dict):
            return {}
        return {place: digests for place, digests in places.items() if isinstance(digests, list)}

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
            if not self.path.is_dir():
                self.path.mkdir(exist_ok=True)
                sync_folder(self.path.parent)
        except OSError as error:
            raise OutputError(
                f"The folder {self.path} cannot be made: {error.strerror}.", "Write elsewhere with -o."
            ) from error

    def _states(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if NAME.fullmatch(path.name))

    def _sweep(self) -> None:
        """Remove what a run that was killed while it wrote has left, as far as that can be done."""
        for path in list(self.path.iterdir()):
            if LEFTOVER.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _present(path: Path, digests: Sequence[Any]) -> list[str]:
    """Return which of these SHA-256s is a file's; nothing where there is none that can be read."""
    if not digests or not path.is_file():
        return []
    with contextlib.suppress(OSError):
        sha256 = sha256_of(path)
        return [sha256] if sha256 in digests else []
    return []
