"""The learning rate from update to update."""

from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch.optim import SGD, Optimizer

from surgeon.errors import OptionError
from surgeon.tuning.config import TuningConfig

WARMUP_FROM = 1e-5


def create_schedule(optimizer: Optimizer, config: TuningConfig, updates_per_epoch: int) -> Scheduler | None:
    """Make timm's schedule of the learning rate, stepped by `step_update(updates)` after every update.

    "step" multiplies the rate by `decay_rate` after every third of the epochs, "multistep" at `decay_milestones`, by
    default after one half and three quarters (He et al. 2016, section 4.2); the other schedules are timm's own. The
    warmup lies within the epochs, and climbs from 1e-5, or from a tenth of the rate where that is less.

    Args:
        optimizer: the optimizer; its learning rates are set to those of the first update.
        config: `sched`, `epochs`, `warmup_epochs`, `decay_rate` and `decay_milestones` are read.
        updates_per_epoch: number of updates an epoch, at least 1.

    Returns:
        The schedule, or None for "none".

    Raises:
        OptionError: timm has no such schedule, or it cannot be stepped every update.
    """
    if config.sched == "plateau":
        raise OptionError(
            "The schedule 'plateau' follows the epochs' scores and not the updates.", "Choose cosine, or step."
        )
    # timm's own default falls after 90 epochs; to other schedules the option means something else.
    decay: dict[str, Any] = {"decay_epochs": config.epochs / 3} if config.sched == "step" else {}
    # timm multiplies the milestones by the updates an epoch, so fractions of epochs are as good as its whole numbers.
    decay["decay_milestones"] = list(config.decay_milestones) or [config.epochs / 2, config.epochs * 3 / 4]
    try:
        schedule: Scheduler | None
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            # timm's own beginning may lie above a small rate.
            warmup_lr=min(WARMUP_FROM, config.lr / 10),
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
            decay_rate=config.decay_rate,
            **decay,
        )
    except ValueError as error:
        raise _refusal(config.sched) from error
    # Older versions of timm return nothing for a name that they do not know.
    if schedule is None and config.sched != "none":
        raise _refusal(config.sched)
    _scale_first_rates(optimizer, schedule)
    return schedule


def rate_share(config: TuningConfig, epoch: int) -> float:
    """Return the learning rate at the beginning of an epoch, from 0, as a share of the option's.

    Args:
        config: see `create_schedule`.
        epoch: below `config.epochs`.
    """
    optimizer = SGD([torch.zeros(1)], lr=config.lr)
    schedule = create_schedule(optimizer, config, 1)
    if schedule is not None:
        schedule.step_update(epoch)
    return base_rate(optimizer) / config.lr


def _scale_first_rates(optimizer: Optimizer, schedule: Scheduler | None) -> None:
    """Give groups with a scale of their own the learning rate of the first update; timm scales from the second on."""
    scaled = [group for group in optimizer.param_groups if "lr_scale" in group]
    if scaled and schedule is not None:
        schedule.step_update(0)
    elif schedule is None:
        for group in scaled:
            group["lr"] *= group["lr_scale"]


def base_rate(optimizer: Optimizer) -> float:
    """Return the learning rate as it is now, without the scales of layer-wise decay."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group.get("lr_scale", 1.0))


def _refusal(name: str) -> OptionError:
    return OptionError(
        f"timm cannot make the schedule {name!r} for these epochs.",
        "Choose another, such as cosine, step, multistep or none.",
    )
