"""Fine-tuning: epochs of training, each followed by an evaluation, with the last and the best weights kept."""

import time
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field
from math import ceil, inf, isfinite
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from surgeon.errors import DataError, OptionError
from surgeon.processes import add_up, count, own_count, same_tensors, synchronized_batch_norm
from surgeon.progress import Track, Training, no_progress
from surgeon.tuning.average import Average
from surgeon.tuning.batches import images_in
from surgeon.tuning.compiling import compiled
from surgeon.tuning.config import TuningConfig
from surgeon.tuning.distill import Objective
from surgeon.tuning.evaluate import Scores, count_images, evaluate
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.layout import channels_first, channels_last, uses_channels_last
from surgeon.tuning.loaders import own_loader
from surgeon.tuning.mixing import Mixing, check_mixable
from surgeon.tuning.modes import derived_seed, frozen_parameters, kept_modes, seeded, train_unfrozen
from surgeon.tuning.optimizer import create_optimizer
from surgeon.tuning.records import EpochRecord, Metrics, Score, Tuned, epoch_record
from surgeon.tuning.schedule import base_rate, create_schedule

BetweenEpochs = Callable[[int, Optimizer], dict[str, Any] | None]
OnEpoch = Callable[[EpochRecord], None]
BatchLoss = Callable[[nn.Module, Any], Tensor]
"""`objective(model, batch)` passes a batch through the network and returns the mean loss of its images, a scalar."""

# Reading the loss makes the host wait for the device, so a diverged run is found out only every so many batches.
BATCHES_BETWEEN_CHECKS = 100


@dataclass
class _Run:
    """What is trained, with what, and from `ema` on how far it has come.

    `module` is the network as it came, and `model` around it what is trained: as accelerate prepared it, and compiled.
    """

    config: TuningConfig
    accelerator: Accelerator
    frozen: Collection[str]
    track: Track
    module: nn.Module
    model: nn.Module
    optimizer: Any
    schedule: Scheduler | None
    objective: BatchLoss
    train_loader: DataLoader[Any]
    images: int | None
    channels_last: bool
    ema: Average | None = None
    updates: int = 0
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_rank: float = -inf
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def result(self) -> nn.Module:
        """The network whose weights are what counts: the average, if there is one."""
        return self.module if self.ema is None else self.ema.module


@dataclass(frozen=True)
class _Pass:
    """One pass over the training images: mean loss, images and seconds."""

    loss: float
    images: int
    seconds: float


def tune(
    model: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any] | None,
    config: TuningConfig,
    *,
    accelerator: Accelerator,
    teacher: nn.Module | None = None,
    objective: BatchLoss | None = None,
    score: Score | None = None,
    frozen: Collection[str] = (),
    between_epochs: BetweenEpochs | None = None,
    on_epoch: OnEpoch | None = None,
    track: Track = no_progress,
) -> Tuned:
    """Fine-tune a network in place and evaluate it after every epoch.

    The same seed and the same images give the same weights on a CPU: every epoch seeds dropout, random augmentation and
    torch's own shuffling anew by `config.seed`, and tells its number to a sampler or data set that has `set_epoch`. The
    model stays on the accelerator's device; its modes and its `requires_grad` are put back. Afterwards the accelerator
    holds none of its objects any more.

    With `config.model_ema` the scores of every epoch, the best weights, and at the end the network's own are those of
    the moving average. Where `between_epochs` edits weights, the average begins anew from the edited network.

    Several processes train as one with batches as large as all of theirs together: the images are shared out anew in
    every epoch, gradients and BatchNorm are those of all images of a batch, and the scores of all validation images.
    Only what is random in the network (dropout) differs. A last batch of fewer images than processes is left out.

    Networks that classify need no more than that. Any other task brings its `objective`, its `score`, or both; its
    batches may then be of any structure of tensors, which accelerate moves to the device.

    Args:
        model: the network; it may return the logits of auxiliary classifiers beside its own while training.
        train_loader: batches of images float [B, C, H, W] and labels int64 [B], or what `objective` takes; it has a
            length.
        val_loader: batches of the same kind, for the scores; None where `score` measures on images of its own.
        config: the options; its precision is the business of `make_accelerator`.
        accelerator: device, precision, processes and gradient accumulation.
        teacher: a network whose soft targets are learned beside the labels (Hinton et al. 2015), on any device; it goes
            with the loss of classification only.
        objective: called as `objective(model, batch)` within autocast, the model in training mode and as the
            accelerator prepared it; it returns the mean loss over the images of the batch, a scalar with a gradient. By
            default `Objective` with the options of `config`.
        score: called as `score(model)` after every epoch; it returns `Scores` or `Metrics`, which say what is best. By
            default `evaluate` on `val_loader`.
        frozen: names of parameters that keep their values, beside those of `config.freeze`. A BatchNorm keeps its
            running statistics when all of its parameters are named (one without parameters: when its running mean is).
        between_epochs: called as `between_epochs(epoch, optimizer)` before every epoch but the first; it may edit
            weights in place, and what it returns is recorded.
        on_epoch: called with the record of every epoch.
        track: called around the loaders, to show progress.

    Returns:
        The records and the best weights.

    Raises:
        LayerError: a pattern of `config.freeze` matches nothing.
        OptionError: no epoch, no parameter to train, an unknown name, a teacher of other classes or beside another
            `objective`, neither `val_loader` nor `score`, a loss that is no scalar, or one that became NaN or infinite.
        DataError: there is no training or validation image.
    """
    if config.epochs < 1:
        raise OptionError("No epoch of fine-tuning is asked for.", "Ask for at least one, or do not fine-tune.")
    networks = (model,) if teacher is None else (model, teacher)
    frozen = frozen_names(model, config.freeze).union(frozen)
    try:
        last = uses_channels_last(config.channels_last, accelerator.device)
        with kept_modes(*networks), frozen_parameters(model, frozen), channels_last(model, last):
            objective = _objective(config, objective, teacher, accelerator)
            run = _prepare(model, train_loader, config, accelerator, objective, frozen, track)
            run.ema = Average(model, config.model_ema_decay) if config.model_ema else None
            score = score or _scoring(val_loader, accelerator, track)
            for epoch in range(config.epochs):
                operation = _operate(run, between_epochs, epoch) if between_epochs and epoch else None
                record, scores = _epoch(run, score, epoch, operation)
                _keep(run, record, scores.rank)
                if on_epoch is not None:
                    on_epoch(record)
            if run.ema is not None:
                model.load_state_dict(run.ema.module.state_dict())
    finally:
        accelerator.free_memory()
    return Tuned(tuple(run.epochs), run.best_epoch, run.best_state)


def train_by_epochs(
    model: nn.Module,
    train_loader: DataLoader[Any],
    config: TuningConfig,
    *,
    accelerator: Accelerator,
    objective: BatchLoss | None = None,
    between_epochs: BetweenEpochs | None = None,
    track: Track = no_progress,
) -> Generator[int]:
    """Train a network like `tune`, an epoch each time the next number is asked for, and without evaluation.

    Args:
        model: the network, trained in place.
        train_loader: see `tune`.
        config: see `tune`.
        accelerator: see `tune`.
        objective: see `tune`.
        between_epochs: see `tune`.
        track: see `tune`.

    Yields:
        The number of the epoch that has just been trained.
    """
    frozen = frozen_names(model, config.freeze)
    try:
        last = uses_channels_last(config.channels_last, accelerator.device)
        with kept_modes(model), frozen_parameters(model, frozen), channels_last(model, last):
            objective = _objective(config, objective, None, accelerator)
            run = _prepare(model, train_loader, config, accelerator, objective, frozen, track)
            for epoch in range(config.epochs):
                if between_epochs is not None and epoch:
                    _operate(run, between_epochs, epoch)
                _trained(run, epoch)
                yield epoch
    finally:
        accelerator.free_memory()


def _objective(
    config: TuningConfig, own: BatchLoss | None, teacher: nn.Module | None, accelerator: Accelerator
) -> BatchLoss:
    if own is None:
        if teacher is not None:
            teacher.to(accelerator.device).eval()
        mixing = Mixing(config.mixup, config.cutmix) if config.mixes else None
        return Objective(config.smoothing, teacher, config.teacher_weight, config.teacher_temperature, mixing)
    if config.mixes:
        raise OptionError(
            "Mixup or cutmix is asked for beside an objective, which would not know of the mixed labels.",
            "Leave them out, or let the objective mix.",
        )
    if config.smoothing:
        raise OptionError(
            "Label smoothing is asked for beside an objective, which would not know of it.",
            "Leave it out, or let the objective smooth.",
        )
    if teacher is not None:
        raise OptionError(
            "A teacher is given beside an objective, which would not ask it.", "Let the objective ask the teacher."
        )
    return own


def _scoring(loader: DataLoader[Any] | None, accelerator: Accelerator, track: Track) -> Score:
    if loader is None:
        raise OptionError("There is nothing to score the epochs by.", "Give validation images, or a score of your own.")
    prepared = own_loader(loader, accelerator, even=False)
    return lambda model: evaluate(model, prepared, accelerator=accelerator, track=track)


def _prepare(
    model: nn.Module,
    train_loader: DataLoader[Any],
    config: TuningConfig,
    accelerator: Accelerator,
    objective: BatchLoss,
    frozen: Collection[str],
    track: Track,
) -> _Run:
    loader = own_loader(train_loader, accelerator, even=True)
    if len(loader) == 0:
        raise DataError("There is no batch of training images.", "Give more images, or a smaller batch size.")
    check_mixable(config, train_loader.batch_size)
    optimizer = create_optimizer(model, config)
    prepared = _prepare_model(model, accelerator)
    optimizer = accelerator.prepare(optimizer)
    updates_per_epoch = ceil(len(loader) / accelerator.gradient_accumulation_steps)
    return _Run(
        config=config,
        accelerator=accelerator,
        frozen=frozen,
        track=track,
        module=model,
        model=compiled(prepared, accelerator.device) if config.compile else prepared,
        optimizer=optimizer,
        schedule=create_schedule(optimizer.optimizer, config, updates_per_epoch),
        objective=objective,
        train_loader=loader,
        images=own_count(count_images(train_loader)),
        channels_last=uses_channels_last(config.channels_last, accelerator.device),
    )


def _prepare_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Place the network, and wrap it for several processes, but leave its forward as it is.

    For mixed precision accelerate replaces `model.forward`. The loop enters autocast itself instead, so that a hook
    between epochs can trace the network as its author wrote it.
    """
    own = model.__dict__.get("forward")
    prepared: nn.Module = accelerator.prepare_model(model)
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)
    if own is not None:
        model.__dict__["forward"] = own
    return prepared


def _operate(run: _Run, hook: BetweenEpochs, epoch: int) -> dict[str, Any] | None:
    """Let the hook edit the network; the average begins anew where it did."""
    before = {} if run.ema is None else {name: value.clone() for name, value in run.module.state_dict().items()}
    with channels_first(run.module, run.channels_last):
        operation = hook(epoch, run.optimizer.optimizer)
    if run.ema is not None and not all(
        torch.equal(value, before[name]) for name, value in run.module.state_dict().items()
    ):
        run.ema.restart(run.module)
    return operation


def _epoch(
    run: _Run, score: Score, epoch: int, operation: dict[str, Any] | None
) -> tuple[EpochRecord, Scores | Metrics]:
    start = time.perf_counter()
    lr = base_rate(run.optimizer)
    trained = _trained(run, epoch)
    # Statistics other than BatchNorm's may differ between processes.
    same_tensors([*run.module.buffers(), *run.result.buffers()])
    scores = score(run.result)
    record = epoch_record(
        scores,
        epoch=epoch,
        lr=lr,
        train_loss=trained.loss,
        seconds=time.perf_counter() - start,
        images_per_second=trained.images / trained.seconds,
        operation=operation,
    )
    return record, scores


def _trained(run: _Run, epoch: int) -> _Pass:
    """Train for one epoch that depends on its number alone, not on how many there were before."""
    train_unfrozen(run.module, run.frozen)
    _order_images(run.train_loader, epoch, derived_seed(run.config.seed, epoch))
    seed = derived_seed(run.config.seed, epoch, run.accelerator.process_index)
    with seeded(seed, run.accelerator.device), synchronized_batch_norm(run.module):
        return _train(run, epoch)


def _train(run: _Run, epoch: int) -> _Pass:
    start = time.perf_counter()
    total = torch.zeros((), device=run.accelerator.device)
    images_seen = 0
    training = Training(epoch, run.config.epochs, lambda: total.item() / images_seen)
    batches = run.track(run.train_loader, f"epoch {epoch + 1}/{run.config.epochs}", run.images, training=training)
    for number, batch in enumerate(batches, start=1):
        loss = _step(run, batch, number)
        images = images_in(batch)
        total += loss * images
        images_seen += images
        if number % BATCHES_BETWEEN_CHECKS == 0:
            _check_loss(loss.item(), epoch, run.config)
    summed = run.accelerator.reduce(torch.stack([total, total.new_tensor(images_seen)]), reduction="sum")
    loss_sum, images_sum = summed.tolist()
    _check_loss(loss_sum, epoch, run.config)
    return _Pass(loss_sum / images_sum, round(images_sum), time.perf_counter() - start)


def _step(run: _Run, batch: Any, number: int) -> Tensor:
    accelerator, optimizer, clip_grad = run.accelerator, run.optimizer, run.config.clip_grad
    with accelerator.accumulate(run.model):
        with accelerator.autocast():
            loss = run.objective(run.model, batch)
        _check_scalar(loss)
        factor = _share_of_mean(run, batch) * _share_of_update(run, number)
        accelerator.backward(loss * factor, create_graph=getattr(optimizer.optimizer, "is_second_order", False))
        if clip_grad is not None and accelerator.sync_gradients:
            accelerator.clip_grad_norm_(run.model.parameters(), clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.updates += 1
            if run.schedule is not None:
                run.schedule.step_update(run.updates)
            if run.ema is not None:
                run.ema.update(run.module)
    return loss.detach()


def _share_of_mean(run: _Run, batch: Any) -> Tensor | int:
    """Return the factor with which the mean of all processes' losses is the mean over all images of their batches.

    The processes' gradients are averaged, each counting alike, and the last batch may not divide evenly.
    """
    if count() == 1:
        return 1
    images = torch.tensor(float(images_in(batch)), device=run.accelerator.device)
    return images * count() / add_up(images.clone())


def _share_of_update(run: _Run, number: int) -> float:
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


def _check_loss(loss: float, epoch: int, config: TuningConfig) -> None:
    if not isfinite(loss):
        raise OptionError(
            f"The training loss became {loss} in epoch {epoch + 1} of {config.epochs}.",
            f"Lower the learning rate (it is {config.lr:g}), or clip the gradient.",
        )


def _order_images(loader: Any, epoch: int, seed: int) -> None:
    """Make the order of the images a matter of the epoch's number, and not of how many passes there were before."""
    loader.set_epoch(epoch)
    for holder in (loader, loader.get_sampler()):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in state.items()
    }


def _keep(run: _Run, record: EpochRecord, rank: float) -> None:
    run.epochs.append(record)
    if rank > run.best_rank or not run.best_state:
        run.best_epoch, run.best_rank = record.epoch, rank
        run.best_state = _copied(run.result)
