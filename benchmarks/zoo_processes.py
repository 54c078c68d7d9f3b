"""Ask worker processes questions, one JSON line each, with a time limit, and start fresh ones to give memory back."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHUNK = 40
"""Questions that one process answers before a fresh one takes its place."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Outcome = tuple["Task", dict[str, Any] | None, str]


@dataclass(frozen=True)
class Task:
    """A question for a worker.

    Attributes:
        name: what it is about.
        question: JSON object.
        weight: how much memory it needs, in parameters.
    """

    name: str
    question: dict[str, Any]
    weight: int = 0


def run_all(script: Path, tasks: Sequence[Task], workers: int, timeout: float, chunk: int = CHUNK) -> Iterator[Outcome]:
    """Yield every task with its answer, or with None and the problem, as they come.

    Args:
        script: Python file that answers each line of standard input with a line on standard output.
        tasks: in the order in which they start.
        workers: number of processes at a time.
        timeout: seconds an answer may take.
        chunk: tasks after which a process is replaced.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)

    def serve() -> None:
        worker: _Worker | None = None
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                break
            if worker is None or worker.answered >= chunk:
                if worker is not None:
                    worker.stop()
                worker = _Worker(script)
            answer, problem = worker.ask(task, timeout)
            done.put((task, answer, problem))
            if answer is None:
                worker.stop()
                worker = None
        if worker is not None:
            worker.stop()

    for _ in range(workers):
        threading.Thread(target=serve, daemon=True).start()
    for _ in tasks:
        yield done.get()


class _Worker:
    """One process that answers questions."""

    def __init__(self, script: Path) -> None:
        root = script.resolve().parent.parent
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
        )
        self.answered = 0

    def ask(self, task: Task, timeout: float) -> tuple[dict[str, Any] | None, str]:
        """Return the answer, or None and what went wrong."""
        questions, answers = self.process.stdin, self.process.stdout
        assert questions is not None
        assert answers is not None
        try:
            questions.write(json.dumps(task.question) + "\n")
            questions.flush()
        except BrokenPipeError:
            return None, f"The process ended with code {self.process.wait()} before the question."
        line = _read_line(answers, timeout)
        self.answered += 1
        if line is None:
            return None, f"No answer within {timeout:.0f} s."
        if not line:
            return None, f"The process ended with code {self.process.wait()}."
        row: dict[str, Any] = json.loads(line)
        return row, ""

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def _read_line(stream: IO[str], timeout: float) -> str | None:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        return lines.get(timeout=timeout)
    except queue.Empty:
        return None
