"""How long a synthesis and the passes after it will take, from one small pass that is timed."""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from surgeon.exemplars.classifier import takes_size
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.schedule import plan_stages
from surgeon.modes import kept_modes
from surgeon.tuning.modes import frozen_parameters
from surgeon.tuning.outputs import split_outputs

PROBES = 2
"""Images of the timed pass."""


@dataclass(frozen=True)
class Effort:
    """Seconds that a network takes for its images, as far as two images tell.

    Args:
        forward: of one image forward.
        gradient: of one image forward and back to its pixels.
        synthesis: of all exemplars.
    """

    forward: float
    gradient: float
    synthesis: float


def measure_effort(
    model: nn.Module, shape: tuple[int, int, int], config: SynthesisConfig, *, device: torch.device | str = "cpu"
) -> Effort:
    """Time a network on two empty images; it is left as it was.

    Args:
        model: a classifier of images, on `device`.
        shape: channels, height and width of the exemplars.
        config: their number and steps.
        device: where to compute.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    images = torch.zeros(PROBES, *shape, device=device, requires_grad=True)
    with kept_modes(model), frozen_parameters(model, names):
        model.eval()
        stages = plan_stages(shape[1:], config.steps, lambda smaller: takes_size(model, (shape[0], *smaller), device))
        # The first pass also pays for what libraries set up.
        _timed(model, images[:1])
        forward, gradient = (seconds / PROBES for seconds in _timed(model, images))
    passes = sum(stage.steps * math.prod(stage.size) for stage in stages) / math.prod(shape[1:])
    return Effort(forward, gradient, gradient * passes * config.count)


def _timed(model: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of a forward pass, and those of it and the pass back."""
    start = time.perf_counter()
    logits, _ = split_outputs(model(images))
    middle = time.perf_counter()
    loss = functional.cross_entropy(logits.float(), torch.zeros(len(images), dtype=torch.int64, device=images.device))
    torch.autograd.grad(loss, images)
    return middle - start, time.perf_counter() - start
