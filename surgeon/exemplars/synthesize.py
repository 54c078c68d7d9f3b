"""Make labelled images from a network alone: the gradient on the input, until the network sees the class in them.

Source: Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, section 3; their
competition with a second network is left out.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from surgeon.data import ImageConfig
from surgeon.data.sampling import spread_labels
from surgeon.errors import ArchitectureError
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.maker import Maker
from surgeon.exemplars.prepare import Preparation, prepare, still
from surgeon.exemplars.schedule import Stage
from surgeon.progress import Track, no_progress
from surgeon.tuning.generators import derived_seed
from surgeon.tuning.layout import channels_last

OnStep = Callable[[float], None]


def synthesize(
    model: nn.Module,
    images: ImageConfig,
    config: SynthesisConfig,
    classes: int,
    *,
    prepared: Preparation | None = None,
    costs: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    track: Track = no_progress,
    on_step: OnStep = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """Make images that the network takes for given classes, and that look to its BatchNorm layers like its own data.

    The network is left as it was. On a CPU the same seed gives the same images on the same machine with as many
    threads; on a GPU they may differ a little from run to run.

    Args:
        model: a classifier of images, on `device`.
        images: its input; of it, the channels, the mean, the standard deviation and by default the size count.
        config: the options.
        classes: number of classes, at least 2.
        prepared: what `prepare` has found out about them, or None to find it out.
        costs: what a step of one image takes at each of its stages, for `on_step`; by default its pixels.
        device: where to compute.
        track: is told of every step; it counts an image once a step at the first size, and by its pixels at others.
        on_step: called after every step with the share of the work that is done, in 0 … 1.

    Returns:
        Images uint8 [N, C, H, W] and labels int64 [N], see `spread_labels`, on the CPU.

    Raises:
        ArchitectureError: the network does not return one row of `classes` logits an image.
        DataError: it has one output, does not take images of this size, or its answer does not depend on them.
        DivergenceError: its answer, or the loss, became NaN or infinite.
    """
    prepared = prepared or prepare(model, images.input_size, config, device=device)
    if prepared.classes != classes:
        raise ArchitectureError(
            f"The network has no classifier of {classes} classes: it returns {prepared.classes} values an image.",
            "Give a checkpoint with its classifier, or images with --data.",
        )
    labels = spread_labels(config.count, classes)
    pixels = torch.empty(config.count, *prepared.shape, dtype=torch.uint8)
    batches, stages = spread_batches(labels, config.batch_size), prepared.stages
    report = _reporter(stages, costs or [math.prod(stage.size) for stage in stages], config.count, on_step)

    def made() -> Iterator[tuple[Tensor]]:
        for number, batch in enumerate(batches):
            generator = torch.Generator().manual_seed(derived_seed(config.seed, number))
            maker = Maker(model, images, config, labels[batch].to(device), generator)
            maker.start(stages[0].size)
            for place, stage in enumerate(stages):
                counted = labels[batch].repeat(_weight(stage, stages))
                for _ in maker.refine(stage, place):
                    report(place, len(batch))
                    yield (counted,)
            pixels[batch] = maker.pixels()

    total = config.count * sum(stage.steps * _weight(stage, stages) for stage in stages)
    with still(model), channels_last(model, prepared.lies_channels_last(device)):
        for _ in track(made(), "exemplars", total):
            # The work is done by what yields the steps.
            pass
    return pixels, labels


def spread_batches(labels: Tensor, most: int) -> list[Tensor]:
    """Return the indices of the images that are made together.

    Args:
        labels: int64 [N].
        most: images a batch.

    Returns:
        As few batches as can be, ascending int64 each; their sizes, and the counts of any class in them, differ by at
        most one.
    """
    number = math.ceil(len(labels) / most)
    by_class = torch.argsort(labels, stable=True)
    return [by_class[start::number].sort().values for start in range(number)]


def _weight(stage: Stage, stages: Sequence[Stage]) -> int:
    """What a step of a stage counts for in the progress: its pixels, in those of the first one."""
    return round(math.prod(stage.size) / math.prod(stages[0].size))


def _reporter(
    stages: Sequence[Stage], costs: Sequence[float], count: int, on_step: OnStep
) -> Callable[[int, int], None]:
    """Return what adds up the work: it is told the number of a stage, and of how many images a step is done."""
    total = count * sum(stage.steps * cost for stage, cost in zip(stages, costs, strict=True))
    done = 0.0

    def report(place: int, images: int) -> None:
        nonlocal done
        done += costs[place] * images
        on_step(done / total)

    return report
