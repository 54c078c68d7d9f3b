"""Fine-tuning: epochs of training, each followed by an evaluation, with the last and the best weights kept."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.errors import OptionError
from surgeon.modes import kept_modes
from surgeon.processes import count, same_tensors
from surgeon.processes.division import put_apart
from surgeon.progress import Track, no_progress
from surgeon.tuning.average import Average
from surgeon.tuning.config import TuningConfig
from surgeon.tuning.distill import Objective
from surgeon.tuning.epoch import train_epoch
from surgeon.tuning.evaluate import evaluate
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.held import Held
from surgeon.tuning.interruption import deferred_signals
from surgeon.tuning.layout import channels_last, uses_channels_last
from surgeon.tuning.loaders import own_loader
from surgeon.tuning.mixing import Mixing
from surgeon.tuning.modes import frozen_parameters
from surgeon.tuning.orthogonal_loss import WithOrthogonalLoss
from surgeon.tuning.records import EpochRecord, Score, Tuned, epoch_record
from surgeon.tuning.run import BatchLoss, BetweenEpochs, Epoch, Run, prepare
from surgeon.tuning.sharding import on_device
from surgeon.tuning.sparsity import Sparsity
from surgeon.tuning.state import Saving, State, check_weights, restore

OnEpoch = Callable[[EpochRecord], None]


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
    held: Held | None = None,
    sparsity: Sparsity | None = None,
    saving: Saving | None = None,
    state: State | Callable[[], State] | None = None,
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

    Where accelerate is configured for FSDP, what is trained is a copy of the network that is divided among the
    processes, and so is the average of its weights: `objective` and `score` are given those, and have to run them in
    all processes the same number of times. The network itself stays on the CPU, and gets the weights in the end.

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
            default `Objective` with the options of `config`. With `config.orthogonal_loss` that term is added.
        score: called as `score(model)` after every epoch; it returns `Scores` or `Metrics`, which say what is best. By
            default `evaluate` on `val_loader`.
        frozen: names of parameters that keep their values, beside those of `config.freeze`. A BatchNorm keeps its
            running statistics when all of its parameters are named (one without parameters: when its running mean is).
        between_epochs: called as `between_epochs(epoch, optimizer)` before every epoch but the first; it may edit
            weights in place, and what it returns is recorded.
        on_epoch: called with the record of every epoch.
        track: called around the loaders, to show progress.
        held: entries of the weights that are held at zero, and the phase; `between_epochs` may change both.
        sparsity: a penalty on some parameters, likewise.
        saving: takes the state of the run before the first epoch, after every epoch and, where it says so, within them.
            With one, SIGINT and SIGTERM are obeyed after the next update, when the state was handed out.
        state: what `saving` took in an earlier run with the same arguments; this one then goes on from there, and ends
            with bitwise the same weights on a CPU as if it had never stopped. Epochs that ended before are not
            reported to `on_epoch` again, but are in the result. Options named in `CHANGEABLE` may be others than they
            were: the rest of the run then goes by them. A function that returns the state is called once, and the state
            let go as soon as it was taken up.

    Returns:
        The records and the best weights.

    Raises:
        LayerError: a pattern of `config.freeze` matches nothing.
        OptionError: no epoch, no parameter to train, an unknown name, a teacher of other classes or beside another
            `objective`, neither `val_loader` nor `score`, or a loss that is no scalar.
        DivergenceError: the loss or a weight became NaN or infinite.
        DataError: there is no training or validation image.
        CheckpointError: the state is not one of this run.
        KeyboardInterrupt: the process was asked to stop.
    """
    if config.epochs < 1:
        raise OptionError("No epoch of fine-tuning is asked for.", "Ask for at least one, or do not fine-tune.")
    networks = (model,) if teacher is None else (model, teacher)
    accumulated = accelerator.gradient_accumulation_steps
    frozen = frozen_names(model, config.freeze).union(frozen)
    try:
        last = uses_channels_last(config.channels_last, accelerator.device)
        with (
            kept_modes(*networks),
            frozen_parameters(model, frozen),
            channels_last(model, last),
            ExitStack() as stack,
        ):
            if teacher is not None:
                teacher = stack.enter_context(on_device(teacher, accelerator.device)).eval()
            objective = make_objective(config, objective, teacher)
            run = prepare(model, train_loader, config, accelerator, objective, frozen, track)
            run.held = Held() if held is None else held
            run.sparsity = Sparsity() if sparsity is None else sparsity
            run.ema = Average(model, config.model_ema_decay, accelerator.device) if config.model_ema else None
            score = score or _scoring(val_loader, accelerator, track)
            begun = None if state is None else restore(run, state() if callable(state) else state)
            if state is None and saving is not None:
                saving.save(run)
            # One process has safer moments to be interrupted than the next update.
            with deferred_signals(saving is not None and count() > 1) as run.pending:
                for number in range(len(run.epochs), config.epochs):
                    epoch, begun = begun or _begin(run, number, between_epochs), None
                    trained = train_epoch(run, epoch, saving)
                    with _saved_on_the_way_out(run, epoch, saving):
                        record, rank = _score(run, score, epoch, trained)
                    _keep(run, record, rank, saving)
                    if on_epoch is not None:
                        on_epoch(record)
            run.give_back()
    finally:
        accelerator.free_memory()
        # It is one number for all accelerators of the process.
        accelerator.gradient_accumulation_steps = accumulated
    return Tuned(tuple(run.epochs), run.best_epoch, run.best_state)


def _begin(run: Run, number: int, between_epochs: BetweenEpochs | None) -> Epoch:
    operation = run.operate(between_epochs, number) if between_epochs and number else None
    return Epoch(number, run.lr, operation)


def make_objective(config: TuningConfig, own: BatchLoss | None, teacher: nn.Module | None) -> BatchLoss:
    """Return the loss of the options, or one's own where the options do not ask for what it would not know of."""
    objective = _loss_of_batches(config, own, teacher)
    return WithOrthogonalLoss(objective, config.orthogonal_loss) if config.orthogonal_loss else objective


def _loss_of_batches(config: TuningConfig, own: BatchLoss | None, teacher: nn.Module | None) -> BatchLoss:
    if own is None:
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


def _score(run: Run, score: Score, epoch: Epoch, trained: tuple[float, int]) -> tuple[EpochRecord, float]:
    """Return the record of an epoch that was trained, and the rank of its scores."""
    start = time.perf_counter()
    loss, images = trained
    # Statistics other than BatchNorm's may differ between processes.
    same_tensors([*run.module.buffers(), *run.result.buffers()])
    scores = score(run.result)
    put_apart(run.result)
    record = epoch_record(
        scores,
        epoch=epoch.number,
        lr=epoch.lr,
        train_loss=loss,
        seconds=epoch.seconds + time.perf_counter() - start,
        images_per_second=images / epoch.seconds,
        operation=epoch.operation,
        phase=run.held.phase,
    )
    return record, scores.rank


def _keep(run: Run, record: EpochRecord, rank: float, saving: Saving | None) -> None:
    if saving is None:
        check_weights(run)
        run.keep(record, rank)
        return
    with deferred_signals(count() == 1) as own:
        run.keep(record, rank)
        saving.save(run)
    if (own if count() == 1 else run.pending).anywhere:
        raise KeyboardInterrupt


@contextmanager
def _saved_on_the_way_out(run: Run, epoch: Epoch, saving: Saving | None) -> Iterator[None]:
    """Hand out the state when the process is asked to stop while the weights do not change."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if saving is None or count() > 1:
            raise
        saving.save(run, epoch)
        raise KeyboardInterrupt from stop
