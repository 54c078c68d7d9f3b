"""One epoch of training."""

import time
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from surgeon.errors import DataError, OptionError
from surgeon.processes import add_up, count, is_uneven, synchronized_batch_norm
from surgeon.progress import Training
from surgeon.tuning.batches import images_in
from surgeon.tuning.generators import derived_seed, generator_states, seeded, set_generators
from surgeon.tuning.interruption import Stop, deferred_signals
from surgeon.tuning.modes import train_unfrozen
from surgeon.tuning.position import order_images, remaining
from surgeon.tuning.run import Epoch, Run
from surgeon.tuning.state import Saving, diverged, fitting_state

# Reading the loss makes the host wait for the device, so a diverged run is found out only every so many batches.
BATCHES_BETWEEN_CHECKS = 100
MOST_NAMES = 10
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
    order_images(run.train_loader, epoch.number, run.config.seed)
    run.outside = generator_states(device)
    with (
        seeded(derived_seed(run.config.seed, epoch.number, place), device),
        synchronized_batch_norm(run.module),
        deferred_signals(saving is not None and count() == 1) as own,
    ):
        pending = own if count() == 1 else run.pending
        _train(run, epoch, saving, Stop(pending, device))
    sums = torch.tensor([epoch.loss, epoch.images, pending.arrived], dtype=torch.float64)
    loss, images, asked = add_up(sums).tolist()
    if not isfinite(loss):
        raise diverged(run, epoch.number, loss, epoch.batches, run.lr)
    if saving is not None and asked:
        saving.save(run, epoch)
        raise KeyboardInterrupt
    return loss / images, round(images)


def _train(run: Run, epoch: Epoch, saving: Saving | None, stop: Stop) -> None:
    start = time.perf_counter() - epoch.seconds
    device = run.accelerator.device
    reading = derived_seed(run.config.seed, epoch.number, run.accelerator.process_index, READING)
    batches = remaining(run.train_loader, epoch.batches, reading, device)
    images = None if run.images is None else run.images - epoch.images
    losses = _Losses(run, epoch)
    training = Training(epoch.number, run.config.epochs, losses.mean, epoch.images, run.held.phase)
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
        if saving is None or not run.accelerator.sync_gradients:
            continue
        stopping = stop.after_update()
        if stopping or saving.due(run.updates):
            losses.settle()
            epoch.seconds = time.perf_counter() - start
            saving.save(run, epoch)
        if stopping:
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
    """Learn from a batch, the first of an epoch being number 1, and return its loss."""
    accelerator, optimizer, clip_grad = run.accelerator, run.optimizer, run.config.clip_grad
    with accelerator.accumulate(run.model):
        with accelerator.autocast():
            loss = _loss(run, batch)
        _check_scalar(loss)
        weighted = loss * _share_of_mean(run, batch) if is_uneven(run.train_loader, number) else loss
        accelerator.backward(weighted, create_graph=getattr(optimizer.optimizer, "is_second_order", False))
        if accelerator.sync_gradients:
            _check_used(run)
            _complete(run, number)
            if run.sparsity.coefficient:
                # Reading the scale makes the host wait for the device.
                scaler = accelerator.scaler
                run.sparsity.before_update(run.module, 1.0 if scaler is None else scaler.get_scale())
            run.held.before_update(run.module)
            if clip_grad is not None:
                accelerator.clip_grad_norm_(run.model.parameters(), clip_grad)
            _update(run)
    return loss.detach()


def _loss(run: Run, batch: Any) -> Tensor:
    try:
        return run.objective(run.model, batch)
    except ValueError as error:
        if images_in(batch) > 1:
            raise
        raise DataError(
            f"A batch of a single image cannot be learnt from: {error}.",
            "Choose a batch size that leaves no image alone.",
        ) from error


def _update(run: Run) -> None:
    """Take the step that the gradients say."""
    # accelerate's optimizer looks for an optional package on the disk in every step, which takes as long as much of a
    # small network's step; only scaled gradients and XLA need it.
    wrapped = run.accelerator.scaler is not None or run.accelerator.device.type == "xla"
    optimizer = run.optimizer if wrapped else run.optimizer.optimizer
    optimizer.step()
    run.sparsity.after_update()
    run.held.after_update(run.module)
    optimizer.zero_grad()
    run.updates += 1
    if run.schedule is not None:
        run.schedule.step_update(run.updates)
    if run.ema is not None:
        run.ema.update(run.module)


def _share_of_mean(run: Run, batch: Any) -> Tensor:
    """Return the factor with which the mean of all processes' losses is the mean over all images of their batches.

    The processes' gradients are averaged, each counting alike, and the last batch may not divide evenly.
    """
    images = torch.full((), float(images_in(batch)), device=run.accelerator.device)
    return images * count() / add_up(images.clone())


def _complete(run: Run, number: int) -> None:
    """Make the gradient the mean over the batches that it is made of, where those of an epoch's end are too few.

    accelerate divides by the number of batches that make an update. How many are left is known only at the end: the
    length that a stream tells may be wrong.
    """
    steps = run.accelerator.gradient_accumulation_steps
    there = number % steps
    if there:
        for parameter in run.module.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad * (steps / there)


def _check_used(run: Run) -> None:
    """Refuse parameters without a gradient where several processes would wait for it.

    Raises:
        OptionError: there are some.
    """
    if not isinstance(run.model, DistributedDataParallel):
        return
    if run.model.find_unused_parameters or run.model.static_graph:
        # Whoever made the accelerator has seen to it.
        return
    named = run.module.named_parameters()
    unused = [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
    if unused:
        raise OptionError(
            f"These parameters take no part in the loss, and several processes wait for their gradients: "
            f"{', '.join(unused[:MOST_NAMES])}.",
            "Freeze them with --freeze (in Python: freeze= of the tuning), or train in one process.",
        )


def _check_scalar(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        given = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise OptionError(
            f"The objective returned {given}, not a scalar with a gradient.",
            "Return the mean loss of the batch's images, computed from the network's answers.",
        )
