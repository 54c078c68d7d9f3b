"""Time and memory of the one-shot operations on ResNet-152, those that need no images.

Measured for planning and executing on a network whose coupling graph is there already, each time in a
fresh process:
- Seconds, against one copy of all weights (`copy.deepcopy`) in the same process and against Torch-Pruning's
  MagnitudeImportance, which only scores the channels of its groups. Goal: below 2 s on two cores.
- Peak of the memory that the operation adds to the network's, of which the largest layer's bytes are the goal. It is
  PyTorch's allocator's own account, kept by `torch.profiler`: it holds temporary tensors inside of an operation too,
  misses none between two samples, is the same in every run, and works on every system. Python's objects and what
  libraries allocate for themselves are not in it.

The partner of `filter-grafting`, a second network, is always there before. Weights are random; BatchNorm scales are
uniform between 0.01 and 1.01, because those of a new network are all alike.

    python benchmarks/operations.py [--threads 2] [--repetitions 3] [--only NAME]…
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from interleaved import seconds_of, spread
from torch import nn
from torch.profiler import ProfilerActivity, profile

import surgeon

SECONDS = 2.0
"""The goal."""
MB = 1e6
PEER = "Torch-Pruning's scores"
OPERATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "channel-regeneration": ("channel-regeneration", {}),
    "channel-regeneration preserve": ("channel-regeneration", {"preserve": True}),
    "kernel-reactivation": ("kernel-reactivation", {}),
    "weight-evolution": ("weight-evolution", {}),
    "filter-grafting": ("filter-grafting", {}),
    **{f"reinit {name}": ("reinit", {"criterion": name}) for name in ("l2", "ortho", "gamma", "random")},
}


def network(seed: int, architecture: str = "resnet152") -> nn.Module:
    """Give a network of random weights."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.01, 1.01)
    return model.eval()


def operation(
    name: str, model: nn.Module, partner: nn.Module, example: torch.Tensor | None = None
) -> Callable[[], None]:
    """Give what plans and executes an operation on a network, for images like the example."""
    method, options = OPERATIONS[name]
    graph = surgeon.trace(model, example)

    def operate() -> None:
        surgeon.execute(model, surgeon.plan(model, method, graph=graph, partner=partner, **options))

    return operate


def peer(model: nn.Module) -> Callable[[], None]:
    """Give what scores the channels of all groups with Torch-Pruning."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, torch.zeros(1, 3, 64, 64))
    groups = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    importance = torch_pruning.importance.MagnitudeImportance(p=2)

    def score() -> None:
        for group in groups:
            importance(group)

    return score


def measured(name: str) -> dict[str, float]:
    """Give an operation's seconds, those of processor time and those of a copy of the network, and its peak memory."""
    model = network(0)
    partner = network(1)
    call = peer(model) if name == PEER else operation(name, model, partner)
    copies: list[nn.Module] = []
    copying = seconds_of(lambda: copies.append(copy.deepcopy(model)))
    busy = time.process_time()
    seconds = seconds_of(call)
    busy = time.process_time() - busy
    model.load_state_dict(copies.pop().state_dict())
    peak = 0 if name == PEER else peak_bytes(operation(name, model, partner))
    sizes = [parameter.nbytes for parameter in model.parameters()]
    figures = {"model": sum(sizes), "largest": max(sizes)}
    return {"copy": copying, "seconds": seconds, "busy": busy, "peak": peak, **figures}


def peak_bytes(call: Callable[[], None]) -> int:
    """Give how many bytes more than before the call are allocated at its peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    now = peak = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def fresh(name: str, threads: int) -> dict[str, float]:
    """Ask a fresh process; leave with its message if it fails."""
    command = [sys.executable, "-W", "ignore", __file__, "--worker", "--only", name]
    root = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": search}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{name} left with {done.returncode}:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(names: list[str], repetitions: int, threads: int) -> None:
    """Measure the peer and the operations, and print the table line by line."""
    peers = [fresh(PEER, threads) for _ in range(repetitions)]
    largest = peers[0]["largest"]
    print(f"ResNet-152, {threads} threads, {repetitions} processes each: median (smallest to largest)")
    print(f"weights {peers[0]['model'] / MB:.1f} MB, the largest layer's {largest / MB:.1f} MB")
    print(f"one copy of all weights: {spread([one['copy'] for one in peers])} s")
    print("busy: seconds of processor time; copies, peer: times as long as a copy, as the peer; layers: of the largest")
    print(f"goals: below {SECONDS:.0f} s; at most {largest / MB:.1f} MB beside the weights\n")
    print(f"{'':30} {'seconds':24} {'busy':>6} {'copies':>6} {'peer':>6} {'MB':>6} {'layers':>6}  goals")
    scores = statistics.median(one["seconds"] for one in peers)
    print(times(PEER, peers, scores), flush=True)
    for name in names:
        runs = [fresh(name, threads) for _ in range(repetitions)]
        peak = max(one["peak"] for one in runs)
        slow = statistics.median(one["seconds"] for one in runs) >= SECONDS
        missed = [what for what, too in (("time", slow), ("memory", peak > largest)) if too]
        verdict = f"{' and '.join(missed)} missed" if missed else "met"
        print(f"{times(name, runs, scores)} {peak / MB:6.1f} {peak / largest:6.2f}  {verdict}", flush=True)


def times(name: str, runs: list[dict[str, float]], scores: float) -> str:
    """Describe how long the runs of one operation took, against copies and against the peer's median."""
    seconds = [one["seconds"] for one in runs]
    busy = statistics.median(one["busy"] for one in runs)
    copies = statistics.median(one["seconds"] / one["copy"] for one in runs)
    return f"{name:30} {spread(seconds):24} {busy:6.3f} {copies:6.1f} {statistics.median(seconds) / scores:6.1f}"


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", action="append", choices=[*OPERATIONS, PEER], help="an operation; all by default")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measured(arguments.only[0])))
    else:
        names = [name for name in arguments.only or OPERATIONS if name != PEER]
        measure(names, arguments.repetitions, arguments.threads)


if __name__ == "__main__":
    main()
