"""A fine-tuning under way: what is trained, with what, and how far it has come."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

import torch
from accelerate import Accelerator
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from surgeon.errors import DataError
from surgeon.processes import own_count
from surgeon.processes.division import is_divided, whole
from surgeon.progress import Track, count_images
from surgeon.structure import structure_of
from surgeon.tuning.accelerator import accumulation
from surgeon.tuning.average import Average
from surgeon.tuning.compiling import compiled
from surgeon.tuning.config import TuningConfig
from surgeon.tuning.held import Held
from surgeon.tuning.interruption import Pending
from surgeon.tuning.layout import channels_first, uses_channels_last
from surgeon.tuning.loaders import own_loader
from surgeon.tuning.mixing import check_mixable
from surgeon.tuning.moments import whole_optimizer
from surgeon.tuning.optimizer import create_optimizer
from surgeon.tuning.orthogonal_loss import check_orthogonal_loss
from surgeon.tuning.position import with_fresh_workers
from surgeon.tuning.records import EpochRecord
from surgeon.tuning.rehearsal import check_divided
from surgeon.tuning.schedule import base_rate, create_schedule
from surgeon.tuning.sharding import check_accelerator, trained_copy
from surgeon.tuning.sparsity import Sparsity
from surgeon.tuning.tensors import copy_tensors

BetweenEpochs = Callable[[int, Optimizer], dict[str, Any] | None]
BatchLoss = Callable[[nn.Module, Any], Tensor]
"""`objective(model, batch)` passes a batch through the network and returns the mean loss of its images, a scalar."""


@dataclass
class Run:
    """What is trained, with what, and in the last fields how far it has come.

    Attributes:
        config: the options.
        accelerator: device, precision, processes and gradient accumulation.
        frozen: names of parameters that keep their values.
        track: called around the loaders, to show progress.
        network: the network that was given. With FSDP it lies on the CPU, and what is trained is a divided copy: it
            has the weights of the beginning until it is edited, or `give_back` is called.
        module: what is trained: the network itself, or the copy.
        model: the same as accelerate wrapped it, and compiled.
        optimizer: as accelerate wrapped it.
        schedule: of the learning rate, or None.
        objective: the loss of a batch.
        train_loader: as accelerate prepared it.
        images: of an epoch in this process, where that is known.
        channels_last: whether weights lie so.
        ema: the moving average of its weights, or None.
        updates: of the weights so far.
        epochs: the records of all finished epochs.
        best_epoch: the number of the best of them.
        best_rank: what it achieved; see `Metrics.rank`.
        best_state: the state dict after it, on the CPU.
        best_on_the_way: it is no result, and any that is one is better.
        outside: states of the generators outside of the epoch that is being trained; see `generator_states`.
        pending: of several processes, whether this one was asked to stop while it tuned; one alone is asked an epoch.
        held: entries of the weights that are held at zero.
        sparsity: a penalty on some parameters.
    """

    config: TuningConfig
    accelerator: Accelerator
    frozen: Collection[str]
    track: Track
    network: nn.Module
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
    best_on_the_way: bool = False
    outside: dict[str, Any] = field(default_factory=dict)
    pending: Pending = field(default_factory=Pending)
    held: Held = field(default_factory=Held)
    sparsity: Sparsity = field(default_factory=Sparsity)

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return base_rate(self.optimizer)

    @property
    def result(self) -> nn.Module:
        """The network whose weights are what counts: the average, if there is one."""
        return self.module if self.ema is None else self.ema.module

    def keep(self, record: EpochRecord, rank: float) -> None:
        """Take down an epoch that has ended, and its weights if it was the best."""
        self.epochs.append(record)
        # A network without a part of it is a step on the way, not a result.
        on_the_way = self.held.provisional or (self.held.passing and bool(self.held.masks))
        if on_the_way and self.best_state:
            return
        if rank > self.best_rank or self.best_on_the_way or not self.best_state:
            self.best_epoch, self.best_rank, self.best_state = record.epoch, rank, _copied(self.result)
            self.best_on_the_way = on_the_way

    def operate(self, hook: BetweenEpochs, epoch: int) -> dict[str, Any] | None:
        """Let a hook edit the network before an epoch; the average begins anew where it did.

        Where it has given the network another structure, earlier weights do not fit it, and none of them are the best.
        """
        _take_over(self.network, self.module)
        structure = structure_of(self.network)
        before = {} if self.ema is None else {name: value.clone() for name, value in self.network.state_dict().items()}
        with (
            channels_first(self.network, self.channels_last),
            whole_optimizer(self.optimizer.optimizer, self.module, self.network) as optimizer,
        ):
            operation = hook(epoch, optimizer)
        _take_over(self.module, self.network)
        if structure_of(self.network) != structure:
            self.best_rank, self.best_state = -inf, {}
            if self.ema is not None:
                self.ema = Average(self.network, self.config.model_ema_decay, self.accelerator.device)
        elif self.ema is not None and not all(
            torch.equal(value, before[name]) for name, value in self.network.state_dict().items()
        ):
            self.ema.restart(self.module)
        return operation

    def give_back(self) -> None:
        """Give the network the weights that count."""
        _take_over(self.network, self.result)


def _take_over(network: nn.Module, other: nn.Module) -> None:
    if network is other:
        return
    if is_divided(network) or is_divided(other):
        copy_tensors(_state(network), _state(other))
    else:
        network.load_state_dict(other.state_dict())


def _state(module: nn.Module) -> dict[str, Tensor]:
    # Not all buffers: those that are no part of it the network makes anew, in whatever size it needs.
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _copied(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {
        name: whole(value.detach()).to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in state.items()
    }


@dataclass
class Epoch:
    """How far one epoch has come.

    Attributes:
        number: from 0.
        lr: learning rate of its first update.
        operation: what was done between the epochs before it.
        batches: how many this process has trained on.
        loss: sum of the training losses of this process's images.
        images: how many they are.
        seconds: wall-clock time of training so far.
        generators: states that the generators are put into once the next batch is read, of an epoch that was resumed.
    """

    number: int
    lr: float
    operation: dict[str, Any] | None = None
    batches: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    generators: dict[str, Any] | None = None


def prepare(
    model: nn.Module,
    train_loader: DataLoader[Any],
    config: TuningConfig,
    accelerator: Accelerator,
    objective: BatchLoss,
    frozen: Collection[str],
    track: Track,
) -> Run:
    """Wrap the network, or its divided copy, for the accelerator and make everything else that trains it."""
    check_accelerator(accelerator)
    loader = own_loader(with_fresh_workers(train_loader), accelerator, even=True)
    if len(loader) == 0:
        raise DataError("There is no batch of training images.", "Give more images, or a smaller batch size.")
    check_mixable(config, train_loader.batch_size)
    trained = trained_copy(model, accelerator.device)
    check_orthogonal_loss(config, trained)
    if trained is not model:
        check_divided(config, accelerator.device)
    optimizer = create_optimizer(trained, config)
    prepared = _prepare_model(model, accelerator) if trained is model else trained
    optimizer = accelerator.prepare(optimizer)
    # accelerate keeps one number for all accelerators of a process, and takes the last that was named.
    accelerator.gradient_accumulation_steps = accumulation(accelerator, config.accumulate)
    updates_per_epoch = ceil(len(loader) / accelerator.gradient_accumulation_steps)
    return Run(
        config=config,
        accelerator=accelerator,
        frozen=frozen,
        track=track,
        network=model,
        module=trained,
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
