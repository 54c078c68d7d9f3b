"""What a run asks of the system for its files: in which order, and what it does where one of these calls fails."""

import dataclasses
import errno
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faulty_runs as runs

from surgeon.operate.compare import COMPARISON


@dataclasses.dataclass(frozen=True)
class Call:
    """What was asked.

    Attributes:
        what: `sync`, or `put` where a file is given a name.
        path: of the file or folder, as it was called until then.
        target: what a file is called from then on.
    """

    what: str
    path: Path
    target: Path | None = None


WAYS: dict[str, tuple[tuple[str, ...], int]] = {
    "a folder cannot be made": (("mkdir",), errno.ENOSPC),
    "a lock cannot be made": (("open",), errno.ENOSPC),
    "a file cannot be removed": (("unlink", "remove"), errno.EIO),
}
"""Functions of `os` that fail, and with what. Only locks are made by its `open`."""


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Take down what is written to the disk for good, and what is given a name, while the context lasts."""
    calls: list[Call] = []
    own = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "link")}

    def sync(descriptor: int) -> None:
        own["fsync"](descriptor)
        calls.append(Call("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def putting(put: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any, **options: Any) -> None:
            put(source, target, **options)
            called, own_name = (Path(one).parent.resolve() / Path(one).name for one in (source, target))
            calls.append(Call("put", called, own_name))

        return call

    os.fsync = sync
    os.replace, os.rename, os.link = (putting(own[name]) for name in ("replace", "rename", "link"))
    try:
        yield calls
    finally:
        for name, function in own.items():
            setattr(os, name, function)


def check_order(calls: Sequence[Call]) -> int:
    """Hold that a file is on the disk before it has its name, and the name before anything else is given one.

    Returns:
        How many names were given.
    """
    places = [place for place, call in enumerate(calls) if call.what == "put"]
    for number, place in enumerate(places):
        put = calls[place]
        assert put.target is not None
        before = calls[:place]
        after = calls[place + 1 : places[number + 1] if number + 1 < len(places) else None]
        synced = any(call.what == "sync" and call.path == put.path for call in before)
        assert synced, f"{put.target.name} has its name before it is on the disk"
        assert any(call.path == put.target.parent for call in after), (
            f"the name of {put.target.name} is not on the disk"
        )
    return len(places)


def in_order(case: runs.Case) -> int:
    """Do a run, hold the order of what it does with files, and return how many names it gave."""
    runs.put_previous(case)
    counted = mmap.mmap(-1, 4)

    def start(track: Any, say: Callable[[str], None]) -> None:
        with recorded() as calls:
            case.start(track, say)
        counted[:] = check_order(calls).to_bytes(4)

    code = runs.code_of(runs.in_child(dataclasses.replace(case, start=start), runs.Moments()))
    assert code == runs.DONE, (case.name, code, runs.told(case))
    runs.check_end(case)
    runs.emptied(case.folder)
    return int.from_bytes(counted[:])


def _tells_why(path: Path, reason: str) -> bool:
    """Tell whether this is the record of a comparison, whole, that says why a run failed: it goes on to the others."""
    if path.name != COMPARISON or not path.exists():
        return False
    failed = [one["reason"] for one in json.loads(path.read_text())["runs"] if one["reason"] is not None]
    assert all(reason in one for one in failed), failed
    return bool(failed)


def fail_call(case: runs.Case, way: str, number: int) -> bool | None:
    """Let one call fail, and do the run again without; tell whether it was refused, or None without so many calls."""
    names, reason = WAYS[way]
    happened = mmap.mmap(-1, 1)

    def prepare() -> None:
        count = 0

        def failing(owned: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *arguments: Any, **options: Any) -> Any:
                nonlocal count
                if owned is not opened or arguments[0] & os.O_CREAT:
                    count += 1
                    if count == number:
                        happened[0] = 1
                        raise OSError(reason, os.strerror(reason), str(path))
                return owned(path, *arguments, **options)

            return call

        opened = os.open
        for name in names:
            setattr(os, name, failing(getattr(os, name)))

    runs.put_previous(case)
    code = runs.code_of(runs.in_child(case, runs.Moments(), prepare))
    where = (case.name, way, number, code, runs.told(case))
    assert code in (runs.DONE, runs.REFUSED), where
    if code == runs.REFUSED:
        problem, remedy = runs.said(case).splitlines()
        assert problem.endswith("."), where
        assert remedy.endswith("."), where
    runs.check_whole(case, {name for name in case.expected if not _tells_why(case.folder / name, os.strerror(reason))})
    again = runs.code_of(runs.in_child(case, runs.Moments()))
    assert again == runs.DONE or (again == runs.REFUSED and " exists." in runs.said(case)), (where, runs.told(case))
    runs.check_end(case)
    runs.emptied(case.folder)
    return code == runs.REFUSED if happened[0] else None
