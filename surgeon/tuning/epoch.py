"""One epoch of training."""

import time
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import OptionError
from surgeon.processes import add_up, count, synchronized_batch_norm
from surgeon.progress import Training
from surgeon.tuning.batches import images_in
from surgeon.tuning.generators import derived_seed, generator_states, seeded, set_generators
from surgeon.tuning.interruption import Pending, deferred_signals
from surgeon.tuning.modes import train_unfrozen
from surgeon.tuning.position import order_images, remaining
from surgeon.tuning.run import Epoch, Run
from surgeon.tuning.state import Saving, diverged, fitting_state

# Reading the loss makes the host wait for the device, so a diverged run is found out only every so many batches.
BATCHES_BETWEEN_CHECKS = 100
READING = 1
"""Tells the seed of what is drawn to read images from that of what is drawn to train on them."""


def train_epoch(run: Run, epoch: Epoch, saving: Saving | None = None) -> tuple[float, int]:
    """Train for one epoch, or for the rest of it, which depends on its number alone, not on how many there were before.

    Args:
        run: what is trained.
        epoch: how far it has come; brought up to date.
        saving: takes the states of the run.

    Returns:
        The mean loss and the number of images, over all processes.

    Raises:
        OptionError: the loss became NaN or infinite, or is no scalar.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; `saving`, if there is one, has the state of that moment.
    """
    device, place = run.accelerator.device, run.accelerator.process_index
    train_unfrozen(run.module, run.frozen)
    order_images(run.train_loader, epoch.number, derived_seed(run.config.seed, epoch.number))
    run.outside = generator_states(device)
    with (
        seeded(derived_seed(run.config.seed, epoch.number, place), device),
        synchronized_batch_norm(run.module),
        # Several processes would not stop after the same batch.
        deferred_signals(saving is not None and count() == 1) as pending,
    ):
        _train(run, epoch, saving, pending)
    sums = torch.tensor([epoch.loss, epoch.images], dtype=torch.float64)
    loss, images = add_up(sums).tolist()
    if not isfinite(loss):
        raise diverged(run, epoch.number, loss, epoch.batches, run.lr)
    return loss / images, round(images)


def _train(run: Run, epoch: Epoch, saving: Saving | None, pending: Pending) -> None:
    start = time.perf_counter() - epoch.seconds
    device = run.accelerator.device
    reading = derived_seed(run.config.seed, epoch.number, run.accelerator.process_index, READING)
    batches = remaining(run.train_loader, epoch.batches, reading, device)
    images = None if run.images is None else run.images - epoch.images
    losses = _Losses(run, epoch)
    training = Training(epoch.number, run.config.epochs, losses.mean)
    for batch in run.track(batches, f"epoch {epoch.number + 1}/{run.config.epochs}", images, training=training):
        if epoch.generators is not None:
            # Not before, since the order of the images may be drawn with the first batch.
            with fitting_state():
                set_generators(epoch.generators, device)
            epoch.generators = None
        lr = run.lr
        losses.add(_step(run, batch, epoch.batches + 1), images_in(batch), lr)
        if epoch.batches % BATCHES_BETWEEN_CHECKS == 0:
            losses.settle()
        if saving is not None and run.accelerator.sync_gradients and (pending.arrived or saving.due(run.updates)):
            losses.settle()
            epoch.seconds = time.perf_counter() - start
            saving.save(run, epoch)
            if pending.arrived:
                raise KeyboardInterrupt
    losses.settle()
    epoch.seconds = time.perf_counter() - start


class _Losses:
    """The losses of the last batches, left on the device until there is a reason to wait for it."""

    def __init__(self, run: Run, epoch: Epoch) -> None:
        self._run = run
        self._epoch = epoch
        self._losses: list[Tensor] = []
        self._images: list[int] = []
        self._rates: list[float] = []

    def add(self, loss: Tensor, images: int, lr: float) -> None:
        """Take down one more batch, and the learning rate of its update."""
        self._losses.append(loss)
        self._images.append(images)
        self._rates.append(lr)
        self._epoch.batches += 1

    def mean(self) -> float:
        """Return the mean loss of the epoch so far."""
        self.settle()
        return self._epoch.loss / self._epoch.images

    def settle(self) -> None:
        """Add what was taken down to the epoch's sums.

        Raises:
            OptionError: a loss is NaN or infinite.
        """
        if not self._losses:
            return
        first = self._epoch.batches - len(self._losses) + 1
        values = torch.stack(self._losses).tolist()
        for place, (value, images) in enumerate(zip(values, self._images, strict=True)):
            if not isfinite(value):
                raise diverged(self._run, self._epoch.number, value, first + place, self._rates[place])
            self._epoch.loss += value * images
            self._epoch.images += images
        for taken in (self._losses, self._images, self._rates):
            taken.clear()


def _step(run: Run, batch: Any, number: int) -> Tensor:
    accelerator, optimizer, clip_grad = run.accelerator, run.optimizer, run.config.clip_grad
    with accelerator.accumulate(run.model):
        with accelerator.autocast():
            loss = run.objective(run.model, batch)
        _check_scalar(loss)
        factor = _share_of_mean(run, batch) * _share_of_update(run, number)
        weighted = loss if isinstance(factor, float) and factor == 1 else loss * factor
        accelerator.backward(weighted, create_graph=getattr(optimizer.optimizer, "is_second_order", False))
        if accelerator.sync_gradients:
            if clip_grad is not None:
                accelerator.clip_grad_norm_(run.model.parameters(), clip_grad)
            _update(run)
    return loss.detach()


def _update(run: Run) -> None:
    """Take the step that the gradients say."""
    # accelerate's optimizer looks for an optional package on the disk in every step, which takes as long as much of a
    # small network's step; only scaled gradients and XLA need it.
    wrapped = run.accelerator.scaler is not None or run.accelerator.device.type == "xla"
    optimizer = run.optimizer if wrapped else run.optimizer.optimizer
    optimizer.step()
    optimizer.zero_grad()
    run.updates += 1
    if run.schedule is not None:
        run.schedule.step_update(run.updates)
    if run.ema is not None:
        run.ema.update(run.module)


def _share_of_mean(run: Run, batch: Any) -> Tensor | int:
    """Return the factor with which the mean of all processes' losses is the mean over all images of their batches.

    The processes' gradients are averaged, each counting alike, and the last batch may not divide evenly.
    """
    if count() == 1:
        return 1
    images = torch.tensor(float(images_in(batch)), device=run.accelerator.device)
    return images * count() / add_up(images.clone())


def _share_of_update(run: Run, number: int) -> float:
    """Return what a batch's loss is multiplied by, so that every update is by the mean over the batches it is made of.

    accelerate divides by the number of batches that make an update, and the last update of an epoch may have fewer.
    """
    batches, steps = len(run.train_loader), run.accelerator.gradient_accumulation_steps
    left = batches % steps
    return steps / left if number > batches - left else 1.0


def _check_scalar(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        given = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise OptionError(
            f"The objective returned {given}, not a scalar with a gradient.",
            "Return the mean loss of the batch's images, computed from the network's answers.",
        )
