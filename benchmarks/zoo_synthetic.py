"""Networks of a chosen length, on which the tracer's time must grow in proportion to the number of operations."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import zoo_worker
from torch import nn
from zoo_catalogue import Specimen
from zoo_results import Results

CHAINS = (250, 500, 1000, 2000)
CONCATENATIONS = (62, 125, 250, 500)


class DenseConcat(nn.Module):
    """A dense block: every layer reads the concatenation of the input and all layers before it."""

    def __init__(self, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + growth * index, growth, 1) for index in range(layers))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = [images]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)).relu())
        return features[-1]


def chain(layers: int, width: int = 8) -> nn.Module:
    """Return a plain chain of convolutions, each with BatchNorm and ReLU."""
    inputs = [3] + [width] * (layers - 1)
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(size, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()) for size in inputs)
    )


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Return the networks by name."""
    chains = {f"chain of {n} layers": partial(chain, n) for n in CHAINS}
    return chains | {f"dense concat of {n} layers": partial(DenseConcat, n, 4) for n in CONCATENATIONS}


def measure(results: Results) -> None:
    """Trace and prove every network, and append seconds and number of operations to the results."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name, create in networks().items():
        specimen = Specimen(create().eval(), None, (torch.ones(2, 3, 8, 8),))
        graph, clock = zoo_worker.timed_trace(specimen)
        proof = zoo_worker.proven(specimen, graph)
        results.append({"name": name, "difference": proof.difference, "holds": proof.holds} | clock)
