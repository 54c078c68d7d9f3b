"""What is known of a synthesis before its first step, and the state of the network that it works in."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from surgeon.exemplars.classifier import check_classifier, takes_size
from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.schedule import Stage, plan_stages
from surgeon.modes import kept_modes
from surgeon.tuning.modes import frozen_parameters


@dataclass(frozen=True)
class Preparation:
    """What a network's exemplars will be.

    Args:
        shape: their channels, height and width.
        classes: of the network, at least 2.
        stages: the steps, from coarse to fine.
    """

    shape: tuple[int, int, int]
    classes: int
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        """Of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def lies_channels_last(self, device: torch.device | str) -> bool:
        """Tell whether images are made with channels last: large ones of ResNet-50 take a third less so on a CPU."""
        return len(self.stages) > 1 and torch.device(device).type == "cpu"


def prepare(
    model: nn.Module,
    input_size: tuple[int, int, int],
    config: SynthesisConfig,
    *,
    device: torch.device | str = "cpu",
) -> Preparation:
    """Find out whether exemplars can be made from a network, and in which steps; it is left as it was.

    Args:
        model: any network, on `device`.
        input_size: channels, height and width of its images.
        config: the options.
        device: where to compute.

    Raises:
        SurgeonError: see `check_classifier`.
    """
    channels, size = input_size[0], config.size or input_size[1:]
    with still(model):
        classes = check_classifier(model, (channels, *size), device)
        stages = plan_stages(size, config.steps, lambda smaller: takes_size(model, (channels, *smaller), device))
    return Preparation((channels, *size), classes, stages)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode and its parameters without gradients while the context lasts."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_modes(model))
        stack.enter_context(frozen_parameters(model, names))
        model.eval()
        yield
