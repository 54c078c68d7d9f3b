"""The state of a fine-tuning: everything that decides how it goes on, as plain values and tensors."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from surgeon.errors import CheckpointError, DivergenceError
from surgeon.memory import is_shortage
from surgeon.processes import add_up, everyones
from surgeon.processes.division import is_divided, local
from surgeon.sound import statistics
from surgeon.tuning.config import CHANGEABLE
from surgeon.tuning.generators import generator_states, set_generators
from surgeon.tuning.handing_out import own_epoch, own_generators
from surgeon.tuning.moments import moments, restore_moments
from surgeon.tuning.position import place_of, put_back
from surgeon.tuning.records import EpochRecord
from surgeon.tuning.run import Epoch, Run
from surgeon.tuning.tensors import restore_network, whole_tensors

State = dict[str, Any]
"""Mappings, lists, tuples, text, numbers and tensors."""

RATES = ("lr", "initial_lr", "momentum")
"""What an optimizer keeps with its groups of parameters and options may change."""


@dataclass(frozen=True)
class Saving:
    """When a run hands out its state, and to whom.

    Args:
        write: takes a state, whose tensors are those that are trained: it copies what it wants to keep. What is divided
            among the processes comes whole, and on the CPU.
        every: updates of the weights between two states within an epoch; None for none there.
    """

    write: Callable[[State], None]
    every: int | None = None

    def due(self, updates: int) -> bool:
        """Tell whether a state within an epoch is due after so many updates."""
        return self.every is not None and updates % self.every == 0

    def save(self, run: Run, epoch: Epoch | None = None) -> None:
        """Hand the state out, unless the network is spoilt.

        Args:
            run: the run; all processes call this together.
            epoch: how far the present epoch has come; None between epochs.

        Raises:
            DivergenceError: a weight or a running statistic is NaN or infinite, or a running variance below zero.
        """
        check_weights(run)
        self.write(run_state(run, epoch))


def run_state(run: Run, epoch: Epoch | None = None) -> State:
    """Return everything that decides how a run goes on; see `Saving.save`."""
    inner = run.optimizer.optimizer
    now = generator_states(run.accelerator.device)
    return {
        "model": whole_tensors(run.module),
        "ema": None if run.ema is None else {"model": whole_tensors(run.ema.module), "updates": run.ema.updates},
        "ema_generators": [] if run.ema is None else [generator.get_state() for generator in run.ema.generators],
        "optimizer": moments(inner),
        "optimizer_generators": [generator.get_state() for generator in _generators_of(inner)],
        "scaler": None if run.accelerator.scaler is None else run.accelerator.scaler.state_dict(),
        "updates": run.updates,
        "options": _changeable(run),
        "epochs": [dataclasses.asdict(record) for record in run.epochs],
        "best": {
            "epoch": run.best_epoch,
            "rank": run.best_rank,
            "state": run.best_state,
            "on the way": run.best_on_the_way,
        },
        "order": place_of(run.train_loader),
        "outside": everyones(now if epoch is None else run.outside),
        "epoch": None if epoch is None else everyones({**vars(epoch), "generators": now}),
    }


def restore(run: Run, state: State) -> Epoch | None:
    """Put a run that was just prepared into a state.

    Args:
        run: of the same network, options but for `CHANGEABLE`, images, and batches of all processes together.
        state: of `run_state`.

    Returns:
        The epoch that it was in, or None where it was between two.

    Raises:
        CheckpointError: the state is not one of this run.
    """
    with fitting_state():
        return _restored(run, state)


@contextmanager
def fitting_state() -> Iterator[None]:
    """Refuse a state that turns out, while it is taken up, not to be what was kept.

    Raises:
        CheckpointError: something was raised that values of other kinds lead to.
    """
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise CheckpointError(
            "The state does not fit the run that it is meant for.",
            "Begin anew: with --restart, or in Python without the state.",
        ) from error


def _restored(run: Run, state: State) -> Epoch | None:
    restore_network(run.module, state["model"])
    if run.ema is not None:
        restore_network(run.ema.module, state["ema"]["model"])
        run.ema.updates = int(state["ema"]["updates"])
        for generator, saved in zip(run.ema.generators, state["ema_generators"], strict=True):
            generator.set_state(saved)
    inner = run.optimizer.optimizer
    rates = [{name: group[name] for name in RATES if name in group} for group in inner.param_groups]
    restore_moments(inner, state["optimizer"])
    for generator, saved in zip(_generators_of(inner), state["optimizer_generators"], strict=True):
        generator.set_state(saved)
    # Where the run goes on in another precision, there may have been none.
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.updates = int(state["updates"])
    if state["options"] != _changeable(run):
        _renew_rates(run, rates)
    run.epochs = [EpochRecord(**record) for record in state["epochs"]]
    best = state["best"]
    run.best_epoch, run.best_rank, run.best_state = int(best["epoch"]), float(best["rank"]), best["state"]
    run.best_on_the_way = bool(best["on the way"])
    put_back(run.train_loader, state["order"])
    set_generators(own_generators(state["outside"]), run.accelerator.device)
    epoch = state["epoch"]
    if epoch is None:
        return None
    return Epoch(**own_epoch(epoch))


def _changeable(run: Run) -> State:
    return {name: getattr(run.config, name) for name in CHANGEABLE}


def _renew_rates(run: Run, rates: Sequence[State]) -> None:
    """Give the optimizer the rates of its own options, not those of the state's, where other ones are wanted now.

    Args:
        run: with its updates counted.
        rates: of every group of parameters, as they were before the first update.
    """
    for group, own in zip(run.optimizer.optimizer.param_groups, rates, strict=True):
        group.update(own)
    if run.schedule is not None:
        run.schedule.step_update(run.updates)


def diverged(run: Run, epoch: int, loss: float, batch: int, lr: float) -> DivergenceError:
    """Return the error that stops a run whose loss is no number any more."""
    return DivergenceError(
        f"The training loss became {loss} in epoch {epoch + 1} of {run.config.epochs}, at batch {batch}.",
        f"{_drop_less(run)}Lower the learning rate (it was {lr:g} there, and {run.config.lr:g} at first), or clip the "
        "gradient.",
    )


def _drop_less(run: Run) -> str:
    """Return what else may help where a part of the network is dropped: little is left to normalize by then."""
    return (
        "Drop less (a smaller ratio, or --max-per-layer), or clip the gradient (--clip-grad 1). "
        if run.held.masks
        else ""
    )


def check_weights(run: Run) -> None:
    """Stop a run whose network is spoilt.

    Raises:
        DivergenceError: a weight or a running statistic is NaN or infinite, or a running variance below zero.
    """
    weights = [local(parameter.detach()) for parameter in run.module.parameters() if parameter.requires_grad]
    weights += [local(tensor) for _, tensor in statistics(run.module)]
    variances = [local(tensor) for name, tensor in statistics(run.module) if name.endswith("running_var")]
    no_numbers = [~weight.isfinite().all() for weight in weights]
    spoilt = torch.stack([*no_numbers, *((variance < 0).any() for variance in variances)]).int()
    if is_divided(run.module):
        # Each process sees a part, and all of them stop together.
        add_up(spoilt)
    # Read once: each reading waits for the device.
    found = spoilt.tolist()
    if any(found[: len(weights)]):
        raise DivergenceError(
            f"A weight or a running statistic became NaN or infinite after {run.updates} updates.",
            f"Lower the learning rate (it is {run.lr:g}, and was {run.config.lr:g} at first), or clip the gradient.",
        )
    if any(found):
        raise DivergenceError(
            f"A running variance fell below zero after {run.updates} updates.",
            "Give the BatchNorm layers a momentum from 0 to 1, or freeze their statistics (--freeze).",
        )


def _generators_of(optimizer: Optimizer) -> Iterator[torch.Generator]:
    """Return the generators that an optimizer keeps beside its state dict (Adahessian's)."""
    for holder in (optimizer, getattr(optimizer, "_base_optimizer", None)):
        yield from (value for value in vars(holder or object).values() if isinstance(value, torch.Generator))
