"""Training through torch.compile."""

import dataclasses

import torch
from torch import Tensor, nn

from surgeon.errors import OptionError
from surgeon.processes import count
from surgeon.tuning.config import TuningConfig


def missing_compiler(device: torch.device) -> str | None:
    """Return why torch.compile cannot make programs for a device, in its own words; None where it can."""
    try:
        torch.compile(_probe)(torch.ones(2, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        return (str(error).strip() or type(error).__name__).split("\n")[0]
    return None


def _probe(values: Tensor) -> Tensor:
    return values * 2 + 1


SEVERAL = "Several processes synchronize BatchNorm while the network runs, which a compiled program would not do."


def without_compiler(config: TuningConfig, device: torch.device) -> tuple[TuningConfig, str | None]:
    """Return the options without `compile` where there is no compiler to use, and a sentence that says so."""
    if config.compile and count() > 1:
        return dataclasses.replace(config, compile=False), f"The network is trained without torch.compile. {SEVERAL}"
    reason = missing_compiler(device) if config.compile else None
    if reason is None:
        return config, None
    note = f"The network is trained without torch.compile, which found no compiler for {device}: {reason}"
    return dataclasses.replace(config, compile=False), note


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network compiled: the same parameters, so that edits in place reach it, and the same keys in itself.

    Raises:
        OptionError: there is no compiler, or several processes train.
    """
    if count() > 1:
        raise OptionError(SEVERAL, "Do not compile, or train in one process.")
    reason = missing_compiler(device)
    if reason is not None:
        raise OptionError(f"torch.compile has no compiler for {device}: {reason}", "Install one, or do not compile.")
    program = torch.compile(model)
    assert isinstance(program, nn.Module)
    return program
