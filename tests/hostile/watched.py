"""Read many files in one process that is watched: what comes of each, how long it takes, and what it touches.

Run as a program, this is the worker: one request a line on stdin, one answer a line on stdout. Started by `Watch`.
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import pickle
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hostile_case import Case, check_whole

SECONDS = 5.0
"""A file may take."""

MEBIBYTES = 300.0
"""A file may take besides its own size."""

PATIENCE = 30.0
"""Seconds after which a worker is given up."""

LONGEST_MESSAGE = 4000
MOST_ADDRESSES = 12 * 2**30
"""Bytes of address space that a worker may take: what goes wrong shall not take the computer along."""

ROOT = Path(__file__).resolve().parents[2]
STARTED, DIED, HUNG = "started", "died", "hung"

TOUCHING = (
    "ctypes.dlopen", "exec.network", "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.link",
    "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system",
    "os.truncate", "os.utime", "pty.spawn", "shutil.", "socket.bind", "socket.connect", "socket.getaddrinfo",
    "subprocess.Popen", "tempfile.",
)  # fmt: skip
"""Beginnings of what Python reports before it starts, writes, removes or fetches something."""


@dataclass(frozen=True)
class Verdict:
    """What came of a file.

    Attributes:
        outcome: read, refused (by an error of ours), failed (by another), died or hung.
        message: the error's text, or what else went wrong.
        seconds: of work, as the worker measures it; for one that gave no answer, until it was given up.
        mebibytes: the most resident memory above what the worker had before.
        faults: every demand that is not met, in words; none where all is well.
    """

    case: Case
    outcome: str
    message: str
    seconds: float
    mebibytes: float
    faults: tuple[str, ...]


class Watch:
    """Reads files, one after the other, in a worker that is started anew where one took it down.

    Args:
        folder: an empty folder to work in.
        canary: what hostile files make where they are executed.
        patience: seconds to wait for an answer.
    """

    def __init__(self, folder: Path, canary: Path, patience: float = PATIENCE) -> None:
        self._folder, self._canary, self._patience = folder, canary, patience
        self._worker: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._kept: set[Path] = set()
        self._cwd, self._temporary = folder / "cwd", folder / "tmp"
        for place in (self._cwd, self._temporary):
            place.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def read(self, case: Case) -> Verdict:
        """Make a case's file, have it read, hold what happened against the demands, and remove it."""
        self._count += 1
        place = self._folder / f"{self._count:04d}"
        place.mkdir()
        path = place / f"file{case.suffix}"
        case.make(path)
        size = path.stat().st_blocks * 512 / 2**20 if path.is_file() else 0.0
        before = _listing(place)
        answer = self._ask({"command": case.command, "path": str(path), "arch": case.arch, "whole": case.whole})
        faults = list(_faults(case, answer, size))
        if _listing(place) != before:
            faults.append("the file or its folder was changed")
        left = [*self._cwd.iterdir(), *(set(self._temporary.iterdir()) - self._kept)]
        if left:
            faults.append(f"left behind: {', '.join(one.name for one in left)}")
        if self._canary.exists():
            faults.append("code of the file was executed")
        for one in [*left, self._canary]:
            _remove(one)
        _remove(place)
        return Verdict(
            case, answer["outcome"], answer["message"], answer["seconds"], answer["mebibytes"], tuple(faults)
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        worker = self._worker or self._start()
        assert worker.stdin is not None
        began = time.monotonic()
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        answer = self._answer(worker)
        if answer is not None:
            return answer
        # Whoever is still alive did not answer.
        outcome = DIED if worker.poll() is not None or self._ended(worker) else HUNG
        self._stop()
        return {
            "outcome": outcome, "message": f"exit code {worker.returncode}", "touched": [],
            "seconds": time.monotonic() - began, "mebibytes": 0.0, "remedy": True,
        }  # fmt: skip

    def _answer(self, worker: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        assert worker.stdout is not None
        if not select.select([worker.stdout], [], [], self._patience)[0]:
            return None
        line = worker.stdout.readline()
        return json.loads(line) if line else None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent))), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "TMPDIR": str(self._temporary), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        self._worker = worker = subprocess.Popen(
            [sys.executable, __file__], cwd=self._cwd, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line or json.loads(line) != STARTED:
            raise RuntimeError("The worker did not start.")
        # What libraries keep there from their import on is none of a file's.
        self._kept = set(self._temporary.iterdir())
        return worker

    @staticmethod
    def _ended(worker: subprocess.Popen[bytes]) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(0.5)
            return True
        return False

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None


def _faults(case: Case, answer: dict[str, Any], size: float) -> Iterator[str]:
    """Yield every demand that an answer does not meet, but those on the folder."""
    outcome, message = answer["outcome"], answer["message"]
    if outcome not in ("read", "refused"):
        yield f"{outcome}: {message[:500]}"
    elif case.outcome not in (outcome, "either"):
        yield f"{outcome} instead of {case.outcome}: {message[:200]}"
    if outcome == "refused":
        if not message.replace("\n", "").isprintable() or len(message) > LONGEST_MESSAGE:
            yield f"the message cannot be shown: {message[:200]!a}, {len(message)} characters"
        if not answer["remedy"]:
            yield f"no remedy, or no sentence: {message}"
        if case.says not in message:
            yield f"the message does not say {case.says!r}: {message[:300]}"
    if answer["seconds"] > SECONDS:
        yield f"{answer['seconds']:.1f} s, more than {SECONDS:g}"
    if answer["mebibytes"] > MEBIBYTES + size:
        yield f"{answer['mebibytes']:.0f} MiB, more than {MEBIBYTES:g} and the file's {size:.0f}"
    if answer["touched"]:
        yield f"touched: {'; '.join(answer['touched'][:5])}"


def _listing(folder: Path) -> list[tuple[str, int, int, int]]:
    """Names, kinds, sizes and times of everything in a folder."""
    statuses = [(one, one.lstat()) for one in sorted(folder.rglob("*"))]
    return [(str(one), status.st_mode, status.st_size, status.st_mtime_ns) for one, status in statuses]


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


class _Ledger:
    """What this process starts, writes, removes or fetches while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.touched: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            written = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            if not arguments[2] & written or arguments[0] == os.devnull:
                return
        elif not event.startswith(TOUCHING):
            return
        self.touched.append(f"{event} {ascii(arguments)[:200]}")


def _resident(field: str) -> float:
    """Return a line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"The system does not tell {field}.")


def _forget_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _carry_out(command: str, path: str, arch: str | None, whole: bool = False) -> None:
    """Read a file as a user's command does.

    Raises:
        SurgeonError: it is refused.
        ValueError: it is `whole`, as of `whole_state`, and something else was read.
    """
    import surgeon
    from surgeon.checkpoint.tree_file import read_tree
    from surgeon.operate.stored_plan import load_plan
    from surgeon.report.records import decoded, run_of

    if command == "load":
        model = surgeon.load(path, arch)
        if whole:
            check_whole(model)
    elif command == "inspect":
        _inspect(path, arch)
    elif command == "plan":
        load_plan(path)
    elif command == "tree":
        read_tree(path)
    else:
        run_of(decoded(Path(path)), Path(path))


def _inspect(path: str, arch: str | None) -> None:
    """Call the command line; what it complains about becomes an error again."""
    from surgeon.cli.main import main
    from surgeon.errors import SurgeonError

    given, out, complaints = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["surgeon", "inspect", path, *(["--arch", arch] if arch else [])]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
            main()
    except SystemExit as end:
        said = complaints.getvalue()
        if end.code == 1 and said.startswith("Error: ") and "Traceback" not in said:
            problem, _, remedy = said.removeprefix("Error: ").rstrip().rpartition("\n")
            raise SurgeonError(problem, remedy) from end
        if end.code:
            raise RuntimeError(f"exit code {end.code}: {said}") from end
    finally:
        sys.argv = given


_ANY = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, SystemError, TypeError, ValueError, pickle.PickleError, Warning,
)  # fmt: skip
"""What is no error of ours. Anything else ends the worker, and is told as that."""


def _serve() -> None:
    """Answer requests until stdin ends."""
    from surgeon.errors import SurgeonError

    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        _warm_up(Path(folder))
    # What is there now is not looked through again after every file.
    gc.collect()
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ledger = _Ledger()
    answers.write(json.dumps(STARTED) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        _forget_peak()
        idle = _resident("VmRSS")
        outcome, message, remedy = "read", "", True
        ledger.touched.clear()
        ledger.armed = True
        # Of this process alone: how busy the computer is shall not count. Whoever waits is given up by `Watch`.
        began = time.process_time()
        try:
            _carry_out(**request)
        except SurgeonError as error:
            outcome, message = "refused", str(error)
            # What does not fit is listed in lines of its own.
            remedy = error.remedy.endswith(".") and (error.problem.endswith(".") or "\n" in error.problem)
        except (SystemExit, *_ANY) as error:
            outcome, message = "failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
        seconds = time.process_time() - began
        ledger.armed = False
        answer = {
            "outcome": outcome, "message": message, "remedy": remedy, "seconds": seconds,
            "mebibytes": _resident("VmHWM") - idle, "touched": list(ledger.touched),
        }  # fmt: skip
        answers.write(json.dumps(answer) + "\n")


def _warm_up(folder: Path) -> None:
    """Read one sound file of each kind, so that the start-up of libraries is nobody's fault."""
    import torch
    from hostile_case import ARCH, laid_out, whole_state

    from surgeon.errors import SurgeonError

    path = folder / "whole.safetensors"
    path.write_bytes(laid_out(whole_state()))
    torch.save(whole_state(), folder / "whole.pt")
    torch.save(whole_state(), folder / "old.pt", _use_new_zipfile_serialization=False)
    for command, name in (("load", path.name), ("load", "whole.pt"), ("load", "old.pt"), ("inspect", path.name)):
        _carry_out(command, str(folder / name), ARCH)
    for command in ("plan", "record", "tree", "load"):
        with contextlib.suppress(SurgeonError):
            _carry_out(command, str(path), None)


if __name__ == "__main__":
    _serve()
