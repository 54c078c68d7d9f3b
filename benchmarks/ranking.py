"""Time and memory of ranking all filters of ResNet-152 by how much they overlap, the criterion `ortho` of RePr.

Measured on random weights, without images, on a network whose coupling graph is there already:
- Seconds, in turn with a dense product of all filters of each layer in plain PyTorch, and with Torch-Pruning's
  FPGMImportance, which compares filters by their distances. Goal: below 3 s on two threads.
- Peak resident memory that it adds to the process, each in fresh processes in which a small network was ranked before,
  so that the libraries are there (on Linux with glibc). Goal: at most the weights' size again.

    python benchmarks/ranking.py [--threads 2] [--repetitions 5]
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from interleaved import interleaved, spread
from operations import network
from torch import nn
from torch.nn.functional import normalize

import surgeon
from surgeon.methods.base import Inputs
from surgeon.methods.ranking import rank

SECONDS = 3.0
"""The goal."""
MEMORY = 1.0
"""The goal, of what is added to the weights in proportion to them."""
MB = 1e6
SMALL = "test_resnet"


def ours(model: nn.Module) -> Callable[[], object]:
    """Give what ranks all filters."""
    inputs = Inputs(surgeon.trace(model), (), model.state_dict())
    return lambda: rank(inputs, "ortho", torch.Generator())


def dense(model: nn.Module) -> Callable[[], object]:
    """Give what multiplies the filters of each layer with each other and sums up, in three lines of PyTorch."""
    weights = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Conv2d)]

    def overlaps(weight: torch.Tensor) -> torch.Tensor:
        directions = normalize(weight.flatten(1), dim=1)
        return (directions @ directions.T - torch.eye(len(weight))).abs().mean(1)

    return lambda: [overlaps(weight) for weight in weights]


def distances(model: nn.Module) -> Callable[[], object]:
    """Give what scores the channels of all groups by their distances from each other with Torch-Pruning."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, torch.zeros(1, 3, 64, 64))
    groups = list(graph.get_all_groups(root_module_types=[nn.Conv2d]))
    importance = torch_pruning.importance.FPGMImportance()
    return lambda: [importance(group) for group in groups]


RANKINGS = {"surgeon": ours, "dense product": dense, "Torch-Pruning's FPGM": distances}


def added_memory(name: str) -> int:
    """Give the bytes by which the resident memory of this process grows at the peak of a ranking."""
    RANKINGS[name](network(0, SMALL))()
    call = RANKINGS[name](network(0))
    gc.collect()
    # What the preparation has freed would otherwise still be resident, and be used again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(figure: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{figure}:")[2].split()[0])


def fresh(name: str, threads: int) -> int:
    """Ask a fresh process for its added memory; leave with its message if it fails."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name, "--threads", str(threads)]
    root = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": search}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{name} left with {done.returncode}:\n{done.stderr}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(repetitions: int, threads: int) -> None:
    """Measure all rankings and print the table."""
    torch.set_num_threads(threads)
    model = network(0)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    times = interleaved({name: make(model) for name, make in RANKINGS.items()}, repetitions)
    filters = sum(len(module.weight) for module in model.modules() if isinstance(module, nn.Conv2d))
    print(f"ResNet-152, {filters} filters, {weights / MB:.1f} MB of weights, {threads} threads, {repetitions} rounds")
    print(f"goals: below {SECONDS:.0f} s; at most {MEMORY:.0f} times the weights added to them\n")
    print(f"{'':22} {'seconds, median (all)':24} {'MB':>6} {'of the weights':>15}  goals")
    for name, seconds in times.items():
        peak = statistics.median(fresh(name, threads) for _ in range(repetitions))
        slow = statistics.median(seconds) >= SECONDS
        missed = [what for what, too in (("time", slow), ("memory", peak > MEMORY * weights)) if too]
        verdict = f"{' and '.join(missed)} missed" if missed else "met"
        print(f"{name:22} {spread(seconds):24} {peak / MB:6.1f} {peak / weights:15.2f}  {verdict}", flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--worker", choices=RANKINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(added_memory(arguments.worker)))
    else:
        measure(arguments.repetitions, arguments.threads)


if __name__ == "__main__":
    main()
