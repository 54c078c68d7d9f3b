"""How long a synthesis and the passes after it will take, from a few that are timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.data import ImageConfig
from surgeon.data.sampling import spread_labels
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.maker import Maker
from surgeon.exemplars.prepare import Preparation, still
from surgeon.exemplars.schedule import Stage
from surgeon.exemplars.synthesize import spread_batches
from surgeon.modes import kept_modes
from surgeon.tuning.layout import channels_last
from surgeon.tuning.outputs import split_outputs

SECONDS = 0.5
"""As many images are timed together as take about so long, but no more than a batch has."""


@dataclass(frozen=True)
class Effort:
    """Seconds that a network takes.

    Args:
        costs: of a step of one image, at every stage of the synthesis.
        synthesis: of all exemplars.
        forward: of one image forward, in the exemplars' size.
        training: of one image forward and back to the weights; 0 where nobody asked.
    """

    costs: tuple[float, ...]
    synthesis: float
    forward: float
    training: float


def measure_effort(
    model: nn.Module,
    images: ImageConfig,
    config: SynthesisConfig,
    prepared: Preparation,
    *,
    trains: bool = True,
    device: torch.device | str = "cpu",
) -> Effort:
    """Time one step of the synthesis at each of its sizes, and one pass of what follows; the network is left as it was.

    Of a large batch a share is timed, so that all of it takes a few seconds.

    Args:
        model: a classifier of images, on `device`.
        images: mean and standard deviation of its input.
        config: the options of the synthesis.
        prepared: see `prepare`.
        trains: time the pass back to the weights as well.
        device: where to compute.
    """
    device = torch.device(device)
    labels = spread_labels(config.count, prepared.classes)
    labels = labels[spread_batches(labels, config.batch_size)[0]].to(device)
    with still(model), channels_last(model, prepared.lies_channels_last(device)):

        def step(stage: Stage, count: int) -> None:
            maker = Maker(model, images, config, labels[:count], torch.Generator().manual_seed(0))
            maker.start(stage.size)
            next(maker.refine(Stage(stage.size, 1)))

        costs = tuple(_seconds(partial(step, stage), len(labels), device) for stage in prepared.stages)
    with kept_modes(model):
        # In training mode the statistics of the BatchNorm layers would change.
        model.eval()

        def answer(count: int) -> Tensor:
            return split_outputs(model(torch.zeros(count, *prepared.shape, device=device)))[0]

        def forward(count: int) -> None:
            with torch.no_grad():
                answer(count)

        def train(count: int) -> None:
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            loss = functional.cross_entropy(answer(count).float(), labels[:count])
            torch.autograd.grad(loss, parameters, allow_unused=True)

        one_forward = _seconds(forward, len(labels), device)
        training = _seconds(train, len(labels), device) if trains else 0.0
    synthesis = config.count * sum(stage.steps * cost for stage, cost in zip(prepared.stages, costs, strict=True))
    return Effort(costs, synthesis, one_forward, training)


def _seconds(work: Callable[[int], None], most: int, device: torch.device) -> float:
    """Return the seconds that work on one image takes, of as many together as are affordable."""
    # The first pass also pays for what libraries set up.
    _timed(work, 1, device)
    alone = _timed(work, 1, device)
    count = min(most, int(SECONDS / alone)) if alone else most
    return alone if count < 2 else _timed(work, count, device) / count


def _timed(work: Callable[[int], None], count: int, device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    work(count)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
