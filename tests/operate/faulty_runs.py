"""Runs in processes of their own that are killed, run out of disk or are asked to stop, and what they leave behind.

For `benchmarks/faults_runs.py`, and in short for `test_faults`. Everything is imported and traced before the first run
starts, so that a run is a fork and takes a fraction of a second.
"""

import builtins
import dataclasses
import errno
import io
import json
import math
import mmap
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import precise_network
import safetensors.torch
import torch
from accelerate import PartialState
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from killed_runs import len_of, make_job, without_times
from shared_comparison import make_runs
from two_stages import EXAMPLE, Two

import surgeon
from surgeon.errors import SurgeonError
from surgeon.operate import claim, job_inputs
from surgeon.operate import compare as comparing
from surgeon.operate.compare import compare
from surgeon.operate.comparison_run import Hooks
from surgeon.operate.run import run_job
from surgeon.report.card import card

DONE, FAILED, REFUSED, ASKED = 0, 1, 2, 3
KILLED = -signal.SIGKILL
LABEL_BYTES = 256
LIMIT = 180.0
"""Seconds within which any process has to end."""

A_MINUTE = 60.0
"""Within which one has to end that has lost the other one of a run."""

CLOSE = 1e-14
"""By how much, relatively or at all, weights in float64 differ where their batches were summed in other parts: tens of
roundings of 1e-16. What is forgotten of a run makes 1e-3 and more."""

FIGURES_CLOSE = 1e-6
"""The same of the figures in records, which are summed in float32."""

OTHERS = {"device", "notes"}
"""What a record has of the processes themselves."""


class Moments:
    """Counts what a run does, says in memory that outlives it what that is, and lets something happen at one of them.

    Args:
        at: number of the moment, from 1; None for none.
        fault: what happens there.
    """

    def __init__(self, at: int | None = None, fault: Callable[[str], None] = lambda what: None) -> None:
        self.count = 0
        self._at = at
        self._fault = fault
        self._stage = "start"
        self._shared = mmap.mmap(-1, LABEL_BYTES)

    def come(self, what: str) -> None:
        self.count += 1
        label = f"{self.count} {self._stage}: {what}".encode()[:LABEL_BYTES]
        self._shared[:] = label.ljust(LABEL_BYTES)
        if self.count == self._at:
            self._fault(what)

    @property
    def last(self) -> tuple[int, str]:
        """The number of the last moment, and what it was; for whoever has started the run."""
        number, _, what = bytes(self._shared).decode().strip(" \0").partition(" ")
        return int(number or 0), what

    def track(self, batches: Any, description: str, total: int | None = None, **options: Any) -> Iterator[Any]:
        self._stage = description.split("/")[0]
        for batch in batches:
            self.come("batch")
            yield batch
        self.come("end")

    def watched(self, name: str, function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.come(name)
            result = function(*arguments, **options)
            if after:
                self.come(f"after {name}")
            return result

        return call

    def watch_files(self) -> None:
        """Count what happens to files too, before and after; only in a process that ends with the run."""
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "link"), (safetensors.torch, "save")):
            setattr(owner, name, self.watched(name, getattr(owner, name), after=True))
        for name in ("unlink", "mkdir", "rmdir"):
            setattr(Path, name, self.watched(name, getattr(Path, name), after=True))


@dataclass
class Case:
    """What is run, and where.

    Attributes:
        name: of the command.
        folder: which everything that it writes goes into.
        start: runs it to its end, given what reports batches and what takes remarks.
        expected: what a run that was left alone leaves; see `outcome`.
        moments: that it has.
        seconds: that it takes.
        previous: what stood in the places of the outputs before, or None.
        watch: lets more of what it does be moments, in the process that ends with it.
    """

    name: str
    folder: Path
    start: Callable[[Any, Callable[[str], None]], Any]
    expected: dict[str, Any] = field(default_factory=dict)
    moments: int = 0
    seconds: float = 0.0
    previous: bytes | None = None
    watch: Callable[[Moments], None] = lambda moments: None


def prepared(folder: Path) -> None:
    """Write the checkpoints, and make every run as short as it can be."""
    torch.manual_seed(0)
    surgeon.save(folder / "two.safetensors", Two().eval())
    surgeon.save(folder / "other.safetensors", Two().eval())
    surgeon.save(folder / "precise.safetensors", precise_network.Precise().eval())
    graph = surgeon.trace(Two().eval(), EXAMPLE)
    # Once for all: every run would take longer for this than for the rest.
    job_inputs.trace_for_images = lambda model, images: graph
    comparing.WAIT = 0.05
    claim.PATIENCE = 5.0


def cases(folder: Path, home: Path | None = None) -> dict[str, list[Case]]:
    """Return the runs that are killed, by the command that they are of, and some further ones.

    Args:
        folder: with the checkpoints.
        home: where the results go, the same folder by default.
    """
    home = home or folder
    adam = {"opt": "adamw", "model_ema": True, "model_ema_decay": 0.5}
    apply = [
        make_job(folder, "sofm", {"every": "1"}, layers=("two",), teacher="original"),
        make_job(folder, "filter-grafting", {"every": "1"}, partner=folder / "other.safetensors"),
        make_job(folder, "repr", {"s1": "1", "s2": "1", "n": "1"}, tuning=adam),
    ]
    plain = dataclasses.replace(make_job(folder, "", {}), method=None, recalibrate=False)
    tuned = dataclasses.replace(plain, teacher="original", tuning=dataclasses.replace(plain.tuning, **adam))
    found = {
        "apply": [_job_case("apply", home, number, job) for number, job in enumerate(apply)],
        "finetune": [_job_case("finetune", home, number, job) for number, job in enumerate((plain, tuned))],
    }
    runs, place = make_runs(folder, 2, reinit={"criterion": "l2", "ratio": "0.3"}), home / "compare"

    def comparison(track: Any, say: Callable[[str], None]) -> None:
        place.mkdir(exist_ok=True)
        compare(runs, place / "out", Hooks(track, len_of, len_of, len_of, say), keep_weights=True)

    operated = dataclasses.replace(apply[0], epochs=0, save_every=None, options={}, teacher=None)
    replaced = [
        _job_case("replaced", home, number, job, overwrite=True) for number, job in enumerate((apply[0], operated))
    ]
    for case in replaced:
        case.previous = b"of an earlier run"
    precise = dataclasses.replace(
        plain,
        checkpoint=folder / "precise.safetensors",
        arch=f"{precise_network.__file__}:Precise",
        images=precise_network.images,
        example=lambda model: EXAMPLE.double(),
        resume_changed=True,
    )
    lost = _job_case("ranks", home, 0, precise)
    read = _job_case("workers", home, 0, dataclasses.replace(plain, workers=1))
    return {
        **found,
        "compare": [Case("compare", place, comparison)],
        "replaced": replaced,
        "workers": [read],
        "ranks": [lost],
        "unlocked": [_job_case("unlocked", home, 0, operated)],
    }


def _job_case(name: str, folder: Path, number: int, job: Any, *, overwrite: bool = False) -> Case:
    home = folder / f"{name}{number}"
    reports = {home / "README.md": lambda record: card(record.to_dict())}
    job = dataclasses.replace(job, output=home / "result.safetensors", overwrite=overwrite, reports=reports)

    def start(track: Any, say: Callable[[str], None]) -> None:
        home.mkdir(exist_ok=True)
        run_job(job, track=track, on_stage=len_of, on_epoch=len_of, say=say)

    return Case(name, home, start)


def in_child(case: Case, moments: Moments, before: Callable[[], None] = lambda: None) -> int:
    """Start a run in a process of its own, and return that; see `said` for what it says."""
    _forget_said(case)
    child = os.fork()
    if not child:
        _end_with(case, moments, before)
    return child


def _end_with(case: Case, moments: Moments, before: Callable[[], None] = lambda: None) -> NoReturn:
    """Do a run, and end this process with what came of it."""
    code = FAILED
    try:
        _print_apart(case)
        moments.watch_files()
        case.watch(moments)
        before()
        case.start(moments.track, lambda text: None)
        code = DONE
    except SurgeonError as error:
        code = REFUSED
        _say(case, f"{error.problem}\n{error.remedy}")
    except (KeyboardInterrupt, SystemExit):
        code = ASKED
    except BaseException as error:
        _say(case, "".join(traceback.format_exception(error)))
        raise
    finally:
        os._exit(code)


def _say(case: Case, text: str) -> None:
    # As the command line does: torch tells of every process that dies by an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with open(case.folder.with_suffix(".said"), "w") as file:
        file.write(text)


def said(case: Case) -> str:
    """Return what the last process of a run has said of a failure; empty where none has failed."""
    path = case.folder.with_suffix(".said")
    return path.read_text() if path.exists() else ""


def told(case: Case) -> str:
    """Return that, and what its processes have printed besides; for whoever looks for the cause."""
    path = case.folder.with_suffix(".err")
    printed = path.read_text(errors="replace") if path.exists() else ""
    return f"{said(case)}\n{printed}".strip()


def _print_apart(case: Case) -> None:
    """Let what torch and others print in this process go to a file: it would bury the result."""
    printed = os.open(case.folder.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, sys.stderr.fileno())
    os.close(printed)


def _forget_said(case: Case) -> None:
    for suffix in (".said", ".err"):
        case.folder.with_suffix(suffix).unlink(missing_ok=True)


def code_of(child: int, limit: float = LIMIT) -> int:
    """Wait for a process, and return how it ended.

    Args:
        child: the process; it is gone afterwards in any case.
        limit: seconds within which it has to end.

    Raises:
        AssertionError: it had to be killed.
    """
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"a process had not ended after {limit:g} s")


def ends_of(children: Sequence[int], limit: float = LIMIT) -> list[tuple[int, float]]:
    """Wait for processes one after the other, each so long, and return how and when they ended; see `code_of`."""
    left = list(children)
    try:
        return [(code_of(left.pop(0), limit), time.perf_counter()) for _ in children]
    finally:
        # There are some left where one had to be killed.
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def codes_of(children: Sequence[int]) -> list[int]:
    return [code for code, _ in ends_of(children)]


def content(path: Path) -> Any:
    """Return what a file holds but for the times; a file that is not whole is an error."""
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            header = dict(file.metadata())
        if "surgeon" in header:
            header["surgeon"] = without_times(json.loads(header["surgeon"]))
        tensors = safetensors.torch.load_file(path)
        return header, {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in tensors.items()}
    if path.suffix == ".md":
        # A card tells how long things took.
        return re.sub(r"[0-9.]+", "0", path.read_text())
    if path.suffix in (".pt2", ".onnx", ".svg"):
        return path.read_bytes()
    if path.suffix == ".html":
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", path.read_text())
    return "left over"


def outcome(folder: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """Return the content of all files in a folder by their names; of those that are known only, if they are given."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content(path) for name, path in names.items() if known is None or name in known}


def emptied(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def measured(case: Case, begin: Callable[[Moments], Sequence[int]] | None = None) -> None:
    """Let a run alone, and take down what it leaves, how many moments it has, and how long it takes.

    Args:
        case: the run.
        begin: starts its processes, of which the main one has these moments; by default there is one.
    """
    moments, start = Moments(), time.perf_counter()
    codes = codes_of([in_child(case, moments)] if begin is None else begin(moments))
    assert set(codes) == {DONE}, (case.name, codes, told(case))
    case.seconds = time.perf_counter() - start
    case.moments = moments.last[0]
    case.expected = outcome(case.folder)
    assert "left over" not in case.expected.values(), case.expected.keys()
    emptied(case.folder)


def check_whole(case: Case, known: Collection[str] | None = None) -> None:
    """Hold every output that there is against the expected one; states, and files that are being written, are none."""
    for name in case.expected if known is None else known:
        path = case.folder / name
        if not path.exists():
            assert case.previous is None, f"{case.name}: {name} is gone"
        elif case.previous is None or path.read_bytes() != case.previous:
            assert content(path) == case.expected[name], f"{case.name}: {name} is not whole"


def put_previous(case: Case) -> None:
    """Let outputs of an earlier run stand where those of this one will."""
    if case.previous is not None:
        for name in case.expected:
            path = case.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(case.previous)


def kill(case: Case, kills: int, seed: int, stages: Counter[str]) -> tuple[int, int]:
    """Kill a run so many times, every other time by the clock, and resume it until it ends, again and again.

    Returns:
        How many of the kills were by the clock, and how many runs came to their end.
    """
    choice = random.Random(seed)
    left, ends, clocked, ended = kills, 0, 0, False
    put_previous(case)
    # What the last kill has left comes to its end, too, or the next fault would find it.
    while left or not ended:
        by_clock = bool(left) and choice.random() < 0.5
        at = None if by_clock or not left else choice.randint(1, max(2, case.moments // choice.choice((1, 2, 4))))
        moments = Moments(at, _die)
        child = in_child(case, moments)
        if by_clock:
            time.sleep(choice.uniform(0, case.seconds / choice.choice((1, 2))))
            os.kill(child, signal.SIGKILL)
        code = code_of(child)
        check_whole(case)
        ended = code != KILLED
        if not ended:
            left -= 1
            clocked += by_clock
            stages[moments.last[1].rstrip("0123456789").strip()] += 1
            continue
        # Outputs that are complete are not the run's to replace any more.
        assert code == DONE or (code == REFUSED and " exists." in said(case)), (case.name, code, told(case))
        check_end(case)
        ends += 1
        emptied(case.folder)
        if left:
            put_previous(case)
    return clocked, ends


def kill_while_writing(case: Case, last: int) -> int:
    """Kill a run at each of so many last moments, when outputs get their names, and let it go on; return how many."""
    for at in range(case.moments - last + 1, case.moments + 1):
        put_previous(case)
        code = code_of(in_child(case, Moments(at, _die)))
        assert code == KILLED, (case.name, at, code, told(case))
        check_whole(case)
        code = code_of(in_child(case, Moments()))
        assert code == DONE or (code == REFUSED and " exists." in said(case)), (case.name, at, code, told(case))
        check_whole(case)
        check_end(case)
        emptied(case.folder)
    return last


def check_end(case: Case) -> None:
    found = outcome(case.folder)
    assert found.keys() == case.expected.keys(), f"{case.name}: {sorted(found.keys() ^ case.expected.keys())}"
    assert found == case.expected, f"{case.name}: another outcome"


def check_close(case: Case) -> None:
    """Hold an end in float64 against the expected one, in which the batches were summed in other parts."""
    found = outcome(case.folder)
    assert found.keys() == case.expected.keys(), f"{case.name}: {sorted(found.keys() ^ case.expected.keys())}"
    for name, one in found.items():
        # The text of a card has no more than the record has.
        if not name.endswith(".md"):
            (record, weights), (others, expected) = _parted(one), _parted(case.expected[name])
            _check_close(record, others, name, FIGURES_CLOSE)
            _check_close(weights, expected, name, CLOSE)


def _parted(value: Any) -> tuple[Any, dict[str, list[Any]]]:
    """Return what a file says, and its tensors as lists of numbers."""
    if not isinstance(value, tuple):
        return value, {}
    said, tensors = value
    numbers = {name: torch.frombuffer(bytearray(raw), dtype=dtype).tolist() for name, (dtype, raw) in tensors.items()}
    return said, numbers


def _check_close(one: Any, other: Any, where: str, close: float) -> None:
    assert type(one) is type(other), (where, one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys(), (where, one.keys() ^ other.keys())
        for key in one.keys() - OTHERS:
            _check_close(one[key], other[key], f"{where}, {key}", close)
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for first, second in zip(one, other, strict=True):
            _check_close(first, second, where, close)
    else:
        same = isinstance(one, float) and math.isclose(one, other, rel_tol=close, abs_tol=close)
        assert same or one == other, (where, one, other)


def writes(case: Case) -> list[str]:
    """Return the names of the files that a run writes, in their order."""
    put_previous(case)
    log = case.folder.with_suffix(".writes")
    log.write_text("")

    def watch() -> None:
        def logged(put: Callable[..., None]) -> Callable[..., None]:
            def call(source: Any, target: Any) -> None:
                with log.open("a") as file:
                    file.write(f"{Path(target).name}\n")
                put(source, target)

            return call

        os.replace, os.link = logged(os.replace), logged(os.link)

    code = code_of(in_child(case, Moments(), watch))
    assert code == DONE, code
    emptied(case.folder)
    return log.read_text().splitlines()


def telling(names: list[str]) -> list[int]:
    """Return the numbers, from 1, of writes that are worth a fault: of each name the first and the last."""
    states = [number for number, name in enumerate(names, 1) if name.startswith("state-")]
    others = [(number, name) for number, name in enumerate(names, 1) if not name.startswith("state-")]
    last = {name: number for number, name in others}
    first = {name: number for number, name in reversed(others)}
    return sorted({*states[:1], *states[-2:], *first.values(), *last.values()})


def full_disk(way: str, number: int) -> Callable[[], None]:
    """Return what lets the disk be full from a write on, or for one call only.

    Args:
        way: `limit`, a real limit on the size of files from then on; or `fsync` or `replace`
            (also where a link is made instead), which fails once.
        number: of the write, from 1.
    """

    def prepare() -> None:
        count = 0

        def now() -> bool:
            nonlocal count
            count += 1
            return count == number

        if way == "limit":
            opened = Path.open

            def open_file(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
                if mode == "xb" and now():
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
                return opened(path, mode, *arguments, **options)

            Path.open = open_file
            return

        def failing(owned: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                # Of a folder it is done on the way out, when the file is where it belongs.
                is_file = way != "fsync" or not os.path.isdir(f"/proc/self/fd/{arguments[0]}")
                if is_file and now():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                owned(*arguments)

            return call

        # A file is put where none is by a link.
        for name in ("replace", "link") if way == "replace" else (way,):
            setattr(os, name, failing(getattr(os, name)))

    return prepare


def fill(case: Case, way: str, number: int) -> str:
    """Let the disk be full at a write of a run, and resume it with room; return what the first said."""
    put_previous(case)
    code = code_of(in_child(case, Moments(), full_disk(way, number)))
    words = said(case) if code == REFUSED else ""
    assert code in (REFUSED, DONE), (case.name, way, number, code, told(case))
    # A comparison goes on without a run that fails, says so in its record, and tries it again the next time.
    check_whole(case, [name for name in case.expected if Path(name).name != "comparison.json"])
    if code == REFUSED:
        problem, remedy = words.splitlines()
        assert "No space left" in problem or "File too large" in problem, problem
        assert problem.endswith(".")
        assert remedy.endswith(".")
    assert not list(case.folder.rglob("*.tmp")), "half a file is left"
    code = code_of(in_child(case, Moments()))
    assert code == DONE or (code == REFUSED and " exists." in said(case)), (case.name, way, number, code, told(case))
    check_end(case)
    emptied(case.folder)
    return words


class _FailingFile(io.RawIOBase):
    """A file of which a part can be read."""

    def __init__(self, path: Any, after: int) -> None:
        self._file = io.FileIO(path)
        self._left = after

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        part = self._file.read(min(len(buffer), self._left)) or b""
        buffer[: len(part)] = part
        self._left -= len(part)
        return len(part)


def failing_reads(name: str, after: int) -> Callable[[], None]:
    """Return what lets files of a name be read only so many bytes far, where Python reads them."""

    def prepare() -> None:
        opened = io.open

        def open_file(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode == "rb" and Path(str(path)).name == name:
                return io.BufferedReader(_FailingFile(path, after))
            return opened(path, mode, *arguments, **options)

        io.open = open_file
        builtins.open = open_file

    return prepare


def twins(case: Case, apart: float = 0.0) -> tuple[int, int]:
    """Start a run twice at once, and return how they ended; what they leave is that of one of them, whole.

    Args:
        case: the run.
        apart: seconds from the start of the first to that of the second.
    """
    put_previous(case)
    children = [in_child(case, Moments())]
    time.sleep(apart)
    children.append(in_child(case, Moments()))
    codes = codes_of(children)
    assert DONE in codes, (case.name, codes, told(case))
    assert REFUSED not in codes or "Another run works with" in said(case) or " exists." in said(case), told(case)
    check_end(case)
    emptied(case.folder)
    return codes[0], codes[1]


def ranks(case: Case, moments: Sequence[Moments], port: int) -> list[int]:
    """Start a run in several processes that know each other, as a launcher would, and return them."""
    _forget_said(case)
    started = []
    for rank, own in enumerate(moments):
        child = os.fork()
        if not child:
            _print_apart(case)
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(moments), "MASTER_PORT": port}
            os.environ.update({name: str(number) for name, number in numbers.items()})
            os.environ.update({"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"})
            PartialState(cpu=True)
            _end_with(case, own)
        started.append(child)
    return started


def kill_worker(what: str) -> None:
    """Kill a process that reads images for this one, as the system does where memory runs out."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)


def lose_worker(case: Case, at: int) -> bool:
    """Kill what reads a run's images at a moment, and resume it; tell whether there was anything to kill."""
    moments = Moments(at, kill_worker)
    code = code_of(in_child(case, moments))
    assert code in (DONE, REFUSED), (case.name, at, code, told(case))
    if code == REFUSED:
        problem, remedy = said(case).splitlines()
        assert "process that reads images" in problem or "memory ran out" in problem, problem
        assert remedy.endswith(".")
        check_whole(case)
        assert code_of(in_child(case, Moments())) == DONE, told(case)
    check_end(case)
    emptied(case.folder)
    return code == REFUSED


def lose_rank(case: Case, victim: int, at: int, port: int, left: int = 2) -> tuple[bool, float, int]:
    """Kill one of two processes of a run at a moment, and resume it with two, or with the one that is left.

    The end is that of two that were left alone: bitwise where two resume it, and but for rounding where one does.

    Args:
        case: the run, measured with two processes.
        victim: number of the process that is killed.
        at: the moment.
        port: where they meet.
        left: how many resume it.

    Returns:
        Whether it was killed before the end, after how many seconds the other one had ended, too, and how many have
        resumed it.
    """
    moments = [Moments(at if rank == victim else None, _die) for rank in range(2)]
    children = ranks(case, moments, port)
    codes, ended = zip(*ends_of((children[victim], children[1 - victim]), A_MINUTE), strict=True)
    if codes[0] != KILLED:
        assert codes == (DONE, DONE), (case.name, victim, at, codes, told(case))
        check_end(case)
        emptied(case.folder)
        return False, 0.0, 0
    # The main process removes the states when the other one has ended already.
    late = victim == 0 and codes[1] == DONE and not list(case.folder.glob("*.state/state-*"))
    refused = codes[1] == REFUSED and said(case).startswith("Another process of this run has ended")
    assert refused or late, (case.name, victim, at, moments[victim].last, codes, told(case))
    if not any(case.folder.glob("*.state/state-*")) and not (case.folder / "result.safetensors").exists():
        # Without a state one process would begin anew, with batches of its own size.
        left = 2
    moments = [Moments() for _ in range(left)]
    children = ranks(case, moments, port) if left > 1 else [in_child(case, moments[0])]
    resumed = codes_of(children)
    complete = resumed == [REFUSED] * left and " exists." in said(case)
    assert complete or resumed == [DONE] * left, (case.name, victim, at, resumed, told(case))
    (check_end if left > 1 else check_close)(case)
    emptied(case.folder)
    return True, ended[1] - ended[0], left


def _die(what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_read(case: Case, name: str, after: int, at: int | None = None) -> str:
    """Let a file of a run be read only in part, and then do it with the whole file; return what was said.

    Args:
        case: the run.
        name: of the file.
        after: bytes that can be read.
        at: moment at which the run is killed before, so that there is a state to read; None to begin anew.
    """
    put_previous(case)
    if at is not None:
        assert code_of(in_child(case, Moments(at, _die))) == KILLED
    code = code_of(in_child(case, Moments(), failing_reads(name, after)))
    assert code in (DONE, REFUSED), (case.name, name, after, code, told(case))
    words = said(case) if code == REFUSED else ""
    if code == REFUSED:
        assert len(words.splitlines()) == 2, words
    check_whole(case)
    # Also where it went on: a comparison whose records could not be read does not know that its runs are over.
    code = code_of(in_child(case, Moments()))
    assert code == DONE or (code == REFUSED and " exists." in said(case)), (case.name, name, after, code, told(case))
    check_end(case)
    emptied(case.folder)
    return words
