"""Fine-tuning, against a bare PyTorch loop with the same network, images, optimizer and precision in the same run.

Measured, each for an epoch of random images:
- Images a second, the two in turn: `surgeon.tuning.tune` by its own record, which leaves out preparation and
  evaluation, against the bare loop. The ratio of the medians should be at least 0.97. As a control the bare loop runs
  twice in every round: the ratio of it to itself says how far the machine's noise reaches.
- Peak memory, each in fresh processes with the same imports: of the whole process on a CPU, of PyTorch's allocator on
  a GPU. The ratio should be at most 1.05. On a CPU the libraries are most of the process, so what the training adds to
  them is printed too.

    python benchmarks/tuning.py                          ResNet-20 at 32 x 32, and timm's ResNet-18 at 128 x 128
    python benchmarks/tuning.py --only resnet20 --device cuda --mixed-precision bf16 --images 20480
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from class_means import cifar_resnet20
from interleaved import interleaved, spread
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from surgeon.tuning import Metrics, TuningConfig, make_accelerator, tune
from surgeon.tuning.config import MixedPrecision

RATE = 0.97
MEMORY = 1.05
MIB = 2**20
CLASSES = 10
LR, MOMENTUM, DECAY = 0.01, 0.9, 1e-4


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, and how many of them there are and make a batch."""

    build: Callable[[], nn.Module]
    side: int
    images: int
    batch_size: int


CASES = {
    "resnet20": Case(cifar_resnet20, 32, 2560, 128),
    "resnet18": Case(lambda: timm.create_model("resnet18", num_classes=CLASSES), 128, 320, 32),
}


def loader_of(case: Case, images: int, device: torch.device) -> DataLoader[Any]:
    """Give random images and labels, the same every time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, case.side, case.side, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    shuffling = torch.Generator().manual_seed(0)
    pinned = device.type == "cuda"
    return DataLoader(
        TensorDataset(pixels, labels), case.batch_size, shuffle=True, generator=shuffling, pin_memory=pinned
    )


def bare_loop(
    model: nn.Module, loader: DataLoader[Any], device: torch.device, precision: MixedPrecision
) -> Callable[[], float]:
    """Give what trains for one epoch as one would write it down, and returns the images a second."""
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    kind = torch.bfloat16 if precision == "bf16" else torch.float16

    def epoch() -> float:
        model.train()
        start, seen = time.perf_counter(), 0
        total = torch.zeros((), device=device)
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with nullcontext() if precision == "no" else torch.autocast(device.type, kind):
                loss = functional.cross_entropy(model(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
            seen += len(labels)
        # Waits for the device.
        total.item()
        return seen / (time.perf_counter() - start)

    return epoch


def our_loop(
    model: nn.Module, loader: DataLoader[Any], device: torch.device, precision: MixedPrecision
) -> Callable[[], float]:
    """Give what fine-tunes for one epoch, and returns the images a second of its record."""
    accelerator = make_accelerator(precision, cpu=device.type == "cpu")
    config = TuningConfig(epochs=1, opt="sgd", lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    unmeasured = Metrics({"nothing": 0.0}, "nothing")

    def epoch() -> float:
        tuned = tune(model, loader, None, config, accelerator=accelerator, score=lambda network: unmeasured)
        return tuned.epochs[0].images_per_second

    return epoch


def peak_memory(
    case: Case, ours: bool, images: int, device: torch.device, precision: MixedPrecision
) -> tuple[int, int]:
    """Give the bytes at the peak of two epochs, in this process, and how many of them were there before training."""
    make = our_loop if ours else bare_loop
    epoch = make(case.build(), loader_of(case, images, device), device, precision)
    before = _peak(device)
    for _ in range(2):
        epoch()
    return _peak(device), before


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Not the resource usage, which on Linux begins with the peak of the process that started this one.
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fresh(name: str, ours: bool, arguments: argparse.Namespace, images: int) -> tuple[float, float]:
    """Ask a fresh process for its peak memory, and what training added, in MiB; leave with its message if it fails."""
    command = [
        *(sys.executable, "-W", "ignore", __file__, "--worker", "ours" if ours else "bare", "--only", name),
        *("--images", str(images), "--device", arguments.device, "--mixed-precision", arguments.mixed_precision),
    ]
    root = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": search})
    if done.returncode:
        sys.exit(f"{name} left with {done.returncode}:\n{done.stderr}")
    peak, before = json.loads(done.stdout.splitlines()[-1])
    return peak / MIB, (peak - before) / MIB


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Measure one case, and print what came out."""
    case, device = CASES[name], torch.device(arguments.device)
    images = arguments.images or case.images
    loader = loader_of(case, images, device)
    rates: dict[str, list[float]] = {"bare": [], "ours": [], "bare again": []}
    loops = {
        which: (our_loop if which == "ours" else bare_loop)(case.build(), loader, device, arguments.mixed_precision)
        for which in rates
    }
    interleaved({which: lambda w=which: rates[w].append(loops[w]()) for which in rates}, arguments.repetitions)
    # The first round is the warmup.
    rates = {which: values[1:] for which, values in rates.items()}
    medians = {which: statistics.median(values) for which, values in rates.items()}
    sizes = f"{case.side} x {case.side}, {images} images in batches of {case.batch_size}"
    print(f"{name} at {sizes}, {device}, mixed precision {arguments.mixed_precision}")
    for which, values in rates.items():
        print(f"{which:12} {spread(values, 1)} images/s")
    ratio = medians["ours"] / medians["bare"]
    print(f"ours / bare: {ratio:.3f} (goal: at least {RATE}: {'met' if ratio >= RATE else 'missed'})")
    print(f"bare again / bare: {medians['bare again'] / medians['bare']:.3f}")
    measured = {
        which: [fresh(name, which == "ours", arguments, images) for _ in range(arguments.processes)]
        for which in ("bare", "ours")
    }
    peaks, added = ({which: [each[part] for each in values] for which, values in measured.items()} for part in (0, 1))
    for which in measured:
        print(f"{which:12} {spread(peaks[which], 1)} MiB at the peak, {spread(added[which], 1)} of it by training")
    ratio = _ratio(peaks)
    print(f"ours / bare: {ratio:.3f} (goal: at most {MEMORY}: {'met' if ratio <= MEMORY else 'missed'})")
    print(f"ours / bare, by training: {_ratio(added):.3f}\n", flush=True)


def _ratio(values: dict[str, list[float]]) -> float:
    return statistics.median(values["ours"]) / statistics.median(values["bare"])


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="a network; all by default")
    parser.add_argument(
        "--images", type=int, help=f"default: {', '.join(f'{c.images} of {n}' for n, c in CASES.items())}"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--processes", type=int, default=3, help="for memory, of each kind (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--worker", choices=("ours", "bare"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        case, device = CASES[arguments.only], torch.device(arguments.device)
        images, precision = arguments.images, arguments.mixed_precision
        print(json.dumps(peak_memory(case, arguments.worker == "ours", images, device, precision)))
        return
    for name in [arguments.only] if arguments.only else CASES:
        measure(name, arguments)


if __name__ == "__main__":
    main()
