"""A trial of an optimizer on parameters that are divided among the processes, before a network is trusted to it."""

import copy
import dataclasses

import torch
from torch import nn

from surgeon.errors import OptionError
from surgeon.memory import is_shortage
from surgeon.processes.division import axis_of, divide, part_of, whole
from surgeon.tuning.config import TuningConfig
from surgeon.tuning.optimizer import create_optimizer

STEPS = 3
RTOL, ATOL = 1e-4, 1e-5
"""How far the weights may be apart after the steps: by the order of summation, in float32."""

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError)


def check_divided(config: TuningConfig, device: torch.device) -> None:
    """Take a few steps with the optimizer on small parameters, whole and divided, and compare them.

    All processes call this together.

    Args:
        config: what `create_optimizer` reads.
        device: where the processes compute.

    Raises:
        OptionError: the optimizer cannot be made, or does not do the same on divided parameters.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(5, 7)).to(device)
    divided = copy.deepcopy(alone)
    divide(divided, device, lambda module: False)
    # Its layers have no order that the rate could decay in.
    config = dataclasses.replace(config, layer_decay=None)
    optimizers = [create_optimizer(network, config) for network in (alone, divided)]
    generator = torch.Generator().manual_seed(0)
    try:
        for _ in range(STEPS):
            for parameter, part in zip(alone.parameters(), divided.parameters(), strict=True):
                gradient = torch.randn(parameter.shape, generator=generator).to(device)
                parameter.grad, part.grad = gradient, part_of(gradient, part, axis_of(part))
            for optimizer in optimizers:
                optimizer.step()
        pairs = zip(alone.parameters(), divided.parameters(), strict=True)
        reason = "" if all(_close(one, other) for one, other in pairs) else "the weights come out differently"
    except FAILURES as error:
        if is_shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
    if reason:
        raise OptionError(
            f"The optimizer {config.opt!r} does not work on parameters that FSDP divides: {reason}.",
            "Choose another, such as sgd, momentum, adamw or lamb.",
        )


def _close(one: nn.Parameter, other: nn.Parameter) -> bool:
    return torch.allclose(one.detach().cpu(), whole(other.detach()), RTOL, ATOL)
