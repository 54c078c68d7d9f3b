"""One batch of images in the making."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.data import ImageConfig
from surgeon.errors import DivergenceError
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.priors import mean_square, total_variation
from surgeon.exemplars.schedule import Stage
from surgeon.exemplars.statistics import StatisticsTerm, statistics_term
from surgeon.tuning.outputs import split_outputs

LEVELS = 255
JITTER = 8
"""The images are rolled by up to this part of their sides."""

BETAS = (0.5, 0.9)

STAGE_FACTOR = 0.5
"""Of the learning rate from stage to stage: Adam begins anew at each, with steps of the full rate for every pixel.

On ResNet-20 and -32 for CIFAR-10 at 192x192 the statistics' distance ends a quarter to a third smaller than without it.
One cosine over all stages leaves the last one too little to repair what enlarging has spoilt, and loses the classes.
"""


class Maker:
    """Makes one batch of images.

    Args:
        model: a classifier in evaluation mode, whose parameters have no gradient.
        images: mean and standard deviation of its input.
        config: the weights of the loss, and the learning rate.
        labels: int64 [B], on the network's device.
        generator: of the CPU, for the first noise, the jitter and the flips.
    """

    def __init__(
        self, model: nn.Module, images: ImageConfig, config: SynthesisConfig, labels: Tensor, generator: torch.Generator
    ) -> None:
        self.model, self.config, self.labels, self.generator = model, config, labels, generator
        self.mean, self.std = (
            torch.tensor(values, device=labels.device)[:, None, None] for values in (images.mean, images.std)
        )
        self.low, self.high = (0 - self.mean) / self.std, (1 - self.mean) / self.std
        self.values = torch.empty(0)

    def start(self, size: tuple[int, int]) -> None:
        """Begin with noise of a height and width."""
        shape = (len(self.labels), len(self.mean), *size)
        self.values = torch.randn(shape, generator=self.generator).to(self.labels.device)

    def refine(self, stage: Stage, number: int = 0) -> Iterator[None]:
        """Bring the images to a stage's size, and yield after each of its steps.

        Args:
            stage: size and steps.
            number: of the stage, from 0; see `STAGE_FACTOR`.

        Raises:
            DivergenceError: the first step's gradient is NaN or infinite.
        """
        values = functional.interpolate(self.values, stage.size, mode="bilinear", align_corners=False)
        values = values.clamp(self.low, self.high).requires_grad_()
        optimizer = torch.optim.Adam([values], lr=self.config.lr * STAGE_FACTOR**number, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.steps)
        with statistics_term(self.model) as statistics:
            for step in range(stage.steps):
                (values.grad,) = torch.autograd.grad(self._loss(values, statistics), values)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    values.clamp_(self.low, self.high)
                if step == 0:
                    _check_finite(values)
                yield
        self.values = values.detach()

    def pixels(self) -> Tensor:
        """Return the images as uint8 on the CPU.

        Raises:
            DivergenceError: they became NaN or infinite.
        """
        _check_finite(self.values)
        return ((self.values * self.std + self.mean) * LEVELS).round().clamp(0, LEVELS).to("cpu", torch.uint8)

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


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise DivergenceError(
            "The synthesis of exemplars became NaN or infinite.",
            "Check the checkpoint's weights, or give images with --data.",
        )
