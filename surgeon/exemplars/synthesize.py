"""Make labelled images from a network alone: the gradient on the input, until the network sees the class in them.

Source: Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, CVPR 2020, section 3; their
competition with a second network is left out.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.data import ImageConfig
from surgeon.data.sampling import spread_labels
from surgeon.errors import OptionError
from surgeon.exemplars.classifier import check_classifier, takes_size
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.priors import mean_square, total_variation
from surgeon.exemplars.schedule import Stage, plan_stages
from surgeon.exemplars.statistics import StatisticsTerm, statistics_term
from surgeon.modes import kept_modes
from surgeon.progress import Track, no_progress
from surgeon.tuning.generators import derived_seed
from surgeon.tuning.modes import frozen_parameters
from surgeon.tuning.outputs import split_outputs

MOST_IN_BATCH = 64
"""Images that are made together; of more, several batches in turn bound the memory."""

LEVELS = 255
JITTER = 8
"""The images are rolled by up to this part of their sides."""

BETAS = (0.5, 0.9)

OnStep = Callable[[float], None]


def synthesize(
    model: nn.Module,
    images: ImageConfig,
    config: SynthesisConfig,
    classes: int,
    *,
    device: torch.device | str = "cpu",
    track: Track = no_progress,
    on_step: OnStep = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """Make images that the network takes for given classes, and that look to its BatchNorm layers like its own data.

    The network is left as it was. The same seed gives the same images on the same machine with as many threads.

    Args:
        model: a classifier of images, on `device`.
        images: its input; of it, the channels, the mean, the standard deviation and by default the size count.
        config: the options.
        classes: number of classes, at least 2.
        device: where to compute.
        track: is told of every step; it counts an image once a step.
        on_step: called after every step with the share of the work that is done, in 0 … 1.

    Returns:
        Images uint8 [N, C, H, W] and labels int64 [N], see `spread_labels`, on the CPU.

    Raises:
        ArchitectureError: the network does not return one row of `classes` logits an image.
        DataError: it has one class, does not take images of this size, or its answer does not depend on them.
        OptionError: the loss became NaN or infinite.
    """
    size = config.size or images.input_size[1:]
    channels = images.input_size[0]
    labels = spread_labels(config.count, classes)
    pixels = torch.empty(config.count, channels, *size, dtype=torch.uint8)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    with kept_modes(model), frozen_parameters(model, names):
        model.eval()
        check_classifier(model, (channels, *size), classes, device)
        stages = plan_stages(size, config.steps, lambda smaller: takes_size(model, (channels, *smaller), device))
        report = _reporter(stages, config.count, on_step)
        for number, batch in enumerate(_batches(config.count)):
            generator = torch.Generator().manual_seed(derived_seed(config.seed, number))
            maker = _Maker(model, images, config, labels[batch].to(device), generator)
            values = maker.noise(stages[0].size)
            for stage in stages:
                values = maker.refined(values, stage, track, report)
            pixels[batch] = maker.pixels(values)
    return pixels, labels


def _batches(count: int) -> list[Tensor]:
    """Indices of the images that are made together: every batch has classes from the first to the last."""
    number = math.ceil(count / MOST_IN_BATCH)
    return [torch.arange(start, count, number) for start in range(number)]


def _reporter(stages: Sequence[Stage], count: int, on_step: OnStep) -> Callable[[Stage, int], None]:
    """Return what adds up the work, a step of one image counting its pixels."""
    total = count * sum(math.prod(stage.size) * stage.steps for stage in stages)
    done = 0

    def report(stage: Stage, images: int) -> None:
        nonlocal done
        done += math.prod(stage.size) * images
        on_step(done / total)

    return report


class _Maker:
    """Makes one batch of images."""

    def __init__(
        self, model: nn.Module, images: ImageConfig, config: SynthesisConfig, labels: Tensor, generator: torch.Generator
    ) -> None:
        self.model, self.config, self.labels, self.generator = model, config, labels, generator
        self.mean, self.std = (
            torch.tensor(values, device=labels.device)[:, None, None] for values in (images.mean, images.std)
        )
        self.low, self.high = (0 - self.mean) / self.std, (1 - self.mean) / self.std

    def noise(self, size: tuple[int, int]) -> Tensor:
        shape = (len(self.labels), len(self.mean), *size)
        return torch.randn(shape, generator=self.generator).to(self.labels.device)

    def refined(self, values: Tensor, stage: Stage, track: Track, report: Callable[[Stage, int], None]) -> Tensor:
        """Return the images after all steps of a stage."""
        values = functional.interpolate(values, stage.size, mode="bilinear", align_corners=False)
        values = values.clamp(self.low, self.high).requires_grad_()
        optimizer = torch.optim.Adam([values], lr=self.config.lr, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps)
        steps = ((self.labels,) for _ in range(stage.steps))
        with statistics_term(self.model) as statistics:
            for _ in track(steps, "exemplars", stage.steps * len(self.labels)):
                (values.grad,) = torch.autograd.grad(self._loss(values, statistics), values)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    values.clamp_(self.low, self.high)
                report(stage, len(self.labels))
        return values.detach()

    def pixels(self, values: Tensor) -> Tensor:
        """Return the images as uint8."""
        if not bool(values.isfinite().all()):
            raise OptionError(
                "The synthesis of exemplars became NaN or infinite.",
                "Check the checkpoint's weights, or give images with --data.",
            )
        return ((values * self.std + self.mean) * LEVELS).round().clamp(0, LEVELS).to("cpu", torch.uint8)

    def _loss(self, values: Tensor, statistics: StatisticsTerm) -> Tensor:
        config = self.config
        logits, _ = split_outputs(self.model(self._jittered(values)))
        loss = functional.cross_entropy(logits.float(), self.labels)
        loss = loss + config.variation_weight * total_variation(values) + config.norm_weight * mean_square(values)
        distance = statistics.take()
        return loss if distance is None else loss + config.statistics_weight * distance

    def _jittered(self, values: Tensor) -> Tensor:
        """Roll the images at random, and mirror them half of the time: no pixel may matter for its place alone."""
        reach = [side // JITTER for side in values.shape[2:]]
        shifts = [int(torch.randint(-most, most + 1, (), generator=self.generator)) for most in reach]
        rolled = values.roll(shifts, dims=(2, 3))
        return rolled.flip(3) if torch.rand((), generator=self.generator) < 0.5 else rolled
