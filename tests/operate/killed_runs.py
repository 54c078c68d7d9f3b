"""Runs that are killed again and again, each time at another moment, until they end; for test_resume.

A program of its own, which has everything imported before it starts its runs: `python killed_runs.py FOLDER`.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from two_stages import CLASSES, EXAMPLE, Two

import surgeon
from surgeon.data import ImageData
from surgeon.errors import OutputError
from surgeon.operate import job_inputs
from surgeon.operate.job import Job
from surgeon.operate.run import run_job
from surgeon.tuning import TuningConfig

ARCH = f"{Path(__file__).resolve().parents[1]}/two_stages.py:Two"
TIMED = ("seconds", "images_per_second")
KILLED, REFUSED = -signal.SIGKILL, 2
LAST_MOMENTS = 30
"""So many, at most, from the end of training on: outputs are written, and states removed."""


class Varied(Dataset[Any]):
    """Images of three levels of brightness, varied by the random numbers of whoever reads them."""

    def __init__(self, varied: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(24) % CLASSES
        self.images = torch.randn(24, 1, 8, 8, generator=generator) + self.labels[:, None, None, None]
        self.varied = varied

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        return (image + 0.1 * torch.randn(()) if self.varied else image), int(self.labels[index])


def images(model: torch.nn.Module) -> ImageData:
    return ImageData("three levels", ("a", "b", "c"), Varied(True), Varied(False), Varied(False))


def make_job(folder: Path, method: str, options: dict[str, Any], **others: Any) -> Job:
    return Job(
        checkpoint=folder / "two.safetensors",
        method=method,
        options=options,
        layers=others.pop("layers", ()),
        arch=ARCH,
        images=images,
        example=lambda model: EXAMPLE,
        output=folder / "out" / "result.safetensors",
        overwrite=False,
        epochs=3,
        tuning=TuningConfig(epochs=3, lr=0.05, **others.pop("tuning", {})),
        teacher=others.pop("teacher", None),
        partner=others.pop("partner", None),
        recalibrate=True,
        seed=5,
        batch_size=8,
        workers=0,
        save_every=1,
    )


class Moments:
    """Counts what a run does to images and files, and kills the process at one of these moments."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self.last = last

    def come(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.come()
            result = function(*arguments, **options)
            self.come()
            return result

        return call

    def track(self, batches: Any, description: str, total: int | None = None, **options: Any) -> Iterator[Any]:
        for batch in batches:
            self.come()
            yield batch

    def watch_files(self) -> None:
        watched = [(os, "fsync"), (os, "replace"), (os, "link"), (safetensors.torch, "save")]
        watched += [(Path, name) for name in ("unlink", "mkdir", "rmdir")]
        for owner, name in watched:
            setattr(owner, name, self.watched(getattr(owner, name)))


def in_child(job: Job, last: int | None) -> tuple[int, int]:
    """Run a job in a process of its own; return how it ended, and how many moments it had if it was not killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            moments = Moments(last)
            moments.watch_files()
            run_job(job, track=moments.track, on_stage=len_of, on_epoch=len_of, say=print)
            os.write(writer, str(moments.count).encode())
            code = 0
        except OutputError as error:
            print(error)
            code = REFUSED
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        count = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(count or 0)


def len_of(anything: Any) -> None:
    """Take no notice."""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(entry) for key, entry in value.items() if key not in TIMED}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """What a run has left: tensors bit by bit, headers and records but for the times, and nothing else."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            found[path.name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                header = {**file.metadata(), "surgeon": without_times(json.loads(file.metadata()["surgeon"]))}
            tensors = safetensors.torch.load_file(path)
            found[path.name] = header, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        else:
            found[path.name] = "left over"
    return found


def check(job: Job, kills: int, seed: int) -> None:
    """Kill a job so many times, and hold every end that it comes to against that of one that was left alone."""
    folder = job.result.parent
    folder.mkdir()
    code, moments = in_child(job, None)
    assert code == 0, code
    expected = outcome(folder)
    assert {"result.json", "result.safetensors"} <= set(expected) <= {
        "result.json", "result.safetensors", "result-best.safetensors",
    }, set(expected)  # fmt: skip
    choice = random.Random(seed)
    ends = 0
    shutil.rmtree(folder)
    folder.mkdir()
    # The first time while it writes its outputs.
    last = moments - choice.randint(0, LAST_MOMENTS)
    while kills or not ends:
        code, _ = in_child(job, last if kills else None)
        last = choice.randint(1, moments // 3)
        if code == KILLED:
            kills -= 1
            continue
        # Outputs that are complete are not the run's to replace any more.
        assert code in (0, REFUSED), code
        assert outcome(folder) == expected, "another outcome"
        ends += 1
        shutil.rmtree(folder)
        folder.mkdir()
    print(f"{job.method}: {moments} moments, {ends} ends, all of them the same")
    shutil.rmtree(folder)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    network = Two().eval()
    surgeon.save(folder / "two.safetensors", network)
    surgeon.save(folder / "other.safetensors", Two().eval())
    graph = surgeon.trace(network, EXAMPLE)
    # Once for all: every run would take longer for this than for the rest.
    job_inputs.trace_for_images = lambda model, images: graph
    # What is imported would be looked through in every run.
    gc.collect()
    gc.freeze()
    adam = {"opt": "adamw", "model_ema": True, "model_ema_decay": 0.5}
    check(make_job(folder, "sofm", {}, layers=("one", "two"), teacher="original"), 8, 1)
    check(make_job(folder, "sofm", {"every": "1"}, layers=("two",), tuning=adam), 6, 2)
    check(make_job(folder, "filter-grafting", {"every": "1"}, partner=folder / "other.safetensors"), 6, 3)
    check(make_job(folder, "repr", {"s1": "1", "s2": "1", "n": "1"}, tuning=adam), 6, 4)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
