"""Training the self-organizing map, against minisom on the same samples in the same run.

Measured at 100 classes x 512 channels of 4 x 4 activations, with a node for every two channels: seconds, quantization
error and topographic error of `self_organizing_map` with its defaults, and of minisom's `train_batch` with a Gaussian
neighbourhood, weights drawn from the samples and four widths from half the chain down to one node, of which the best is
taken. It trains by Kohonen's rule of thumb, 500 steps for every node; goal: ten times faster than that, with an error
no higher. The ratio to the least that it could do, a single pass over the samples, is printed beside it.

`--imagenet` measures 1,000 classes x 2,048 channels of 7 x 7 and 1,024 nodes alone: seconds and the growth of the
process's peak memory. minisom would take hours there.

    python benchmarks/som.py [--imagenet]
"""

import argparse
import resource
import statistics
import time
from dataclasses import dataclass

import torch
from interleaved import interleaved, spread
from minisom import MiniSom
from torch import Tensor

from surgeon.methods.self_organizing_map import self_organizing_map


@dataclass(frozen=True)
class Run:
    """One way to train a map, and what came of it."""

    name: str
    seconds: float
    quantization_error: float
    topographic_error: float


def class_means(classes: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Give maps `[classes * channels, size]` above zero: a pattern for every channel, a strength for every class."""
    patterns = torch.randn(channels, size, generator=generator)
    samples = torch.empty(classes, channels, size)
    for one in samples:
        strength = torch.randn(channels, 1, generator=generator).exp()
        noise = torch.randn(channels, size, generator=generator)
        torch.clamp(strength * patterns + 0.3 * noise, min=0, out=one)
    return samples.view(-1, size)


def ours(samples: Tensor, nodes: int, seed: int, repetitions: int) -> Run:
    """Train with the defaults; the seconds are the median over the repetitions."""

    def train() -> None:
        self_organizing_map(samples, nodes, generator=torch.Generator().manual_seed(seed))

    seconds = interleaved({"ours": train}, repetitions)["ours"]
    print(f"surgeon: {spread(seconds)} s over {repetitions} repetitions, {torch.get_num_threads()} threads")
    trained = self_organizing_map(samples, nodes, generator=torch.Generator().manual_seed(seed))
    return Run("surgeon", statistics.median(seconds), trained.quantization_error, trained.topographic_error)


def minisom(samples: Tensor, nodes: int, seed: int, sigma: float, steps: int) -> Run:
    """Train minisom's map on the same samples, in its own float64."""
    data = samples.double().numpy()
    peer = MiniSom(1, nodes, data.shape[1], sigma=sigma, neighborhood_function="gaussian", random_seed=seed)
    peer.random_weights_init(data)
    start = time.perf_counter()
    peer.train_batch(data, steps)
    seconds = time.perf_counter() - start
    name = f"minisom, sigma {sigma:g}, {steps:,} steps"
    return Run(name, seconds, peer.quantization_error(data), peer.topographic_error(data))


def compare(arguments: argparse.Namespace) -> None:
    """Print both libraries' figures and the ratios."""
    generator = torch.Generator().manual_seed(arguments.seed)
    samples = class_means(arguments.classes, arguments.channels, arguments.size, generator)
    nodes = arguments.channels // 2
    print(f"{len(samples):,} samples of {arguments.size} values, {nodes} nodes")
    mine = ours(samples, nodes, arguments.seed, arguments.repetitions)
    print_run(mine)
    for what, steps in (("rule of thumb", 500 * nodes), ("single pass", len(samples))):
        peers = [minisom(samples, nodes, arguments.seed, sigma, steps) for sigma in (nodes / 2, 16, 4, 1)]
        for peer in peers:
            print_run(peer)
        best = min(peers, key=lambda run: run.quantization_error)
        print(
            f"against minisom's {what}: {best.seconds / mine.seconds:.1f} times as fast,"
            f" {mine.quantization_error / best.quantization_error:.3f} of its quantization error"
        )


def print_run(run: Run) -> None:
    """Print what came of one way to train."""
    print(
        f"{run.name:40} {run.seconds:8.3f} s  quantization error {run.quantization_error:.4f}"
        f"  topographic error {run.topographic_error:.3f}"
    )


def imagenet(arguments: argparse.Namespace) -> None:
    """Print the seconds and the peak memory at ImageNet's size."""
    samples = class_means(1000, 2048, 49, torch.Generator().manual_seed(arguments.seed))
    busy = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    trained = self_organizing_map(samples, 1024, generator=torch.Generator().manual_seed(arguments.seed))
    seconds = time.perf_counter() - start
    busy = time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{len(samples):,} samples of 49 values ({samples.nbytes / 2**20:.0f} MiB), 1,024 nodes,"
        f" {len(trained.sigmas)} epochs, {torch.get_num_threads()} threads"
    )
    growth = (peak - before) / 2**10
    print(f"{seconds:.1f} s ({busy:.1f} s of processor time)")
    print(f"peak memory {peak / 2**10:.0f} MiB, of which {growth:.0f} MiB came with the map")
    print(f"quantization error {trained.quantization_error:.4f}, topographic error {trained.topographic_error:.3f}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", action="store_true", help="measure at ImageNet's size, without minisom")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--size", type=int, default=16, help="values of a sample")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.imagenet:
        imagenet(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
