"""Training by single epochs, whenever somebody asks for the next one."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.modes import kept_modes
from surgeon.progress import Track, no_progress
from surgeon.tuning.config import TuningConfig
from surgeon.tuning.epoch import train_epoch
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.layout import channels_last, uses_channels_last
from surgeon.tuning.loop import make_objective
from surgeon.tuning.modes import frozen_parameters
from surgeon.tuning.run import BatchLoss, BetweenEpochs, Epoch, Run, prepare
from surgeon.tuning.state import State, fitting_state, restore, run_state


class EpochByEpoch(Iterator[int]):
    """Trains a network like `tune`, an epoch each time the next number is asked for, and without evaluation.

    Nothing is done before the first number is asked for, unless there is a state to go on from.

    Args:
        model: the network, trained in place.
        train_loader: see `tune`.
        config: see `tune`.
        accelerator: see `tune`.
        objective: see `tune`.
        between_epochs: see `tune`.
        track: see `tune`.
        state: what `state` returned in an earlier training with the same arguments.

    Raises:
        CheckpointError: the state is not one of this training.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: DataLoader[Any],
        config: TuningConfig,
        *,
        accelerator: Accelerator,
        objective: BatchLoss | None = None,
        between_epochs: BetweenEpochs | None = None,
        track: Track = no_progress,
        state: State | None = None,
    ) -> None:
        self._model = model
        self._train_loader = train_loader
        self._config = config
        self._accelerator = accelerator
        self._objective = make_objective(config, objective, None)
        self._between_epochs = between_epochs
        self._track = track
        self._stack = ExitStack()
        self._run: Run | None = None
        self._next = 0
        if state is not None:
            with fitting_state():
                run = self._begun()
                restore(run, state["run"])
                run.give_back()
                self._next = int(state["next"])

    @property
    def begun(self) -> bool:
        """Whether anything was done yet."""
        return self._run is not None

    def state(self) -> State | None:
        """Return what decides how it goes on, or None before it has begun; see `run_state`."""
        return None if self._run is None else {"run": run_state(self._run), "next": self._next}

    def __next__(self) -> int:
        """Train the next epoch and return its number."""
        number = self._next
        if number >= self._config.epochs:
            self.close()
            raise StopIteration
        run = self._begun()
        if self._between_epochs is not None and number:
            run.operate(self._between_epochs, number)
        train_epoch(run, Epoch(number, run.lr))
        run.give_back()
        self._next += 1
        return number

    def close(self) -> None:
        """End the training, and put the modes of the network back."""
        self._next = self._config.epochs
        self._stack.close()

    def _begun(self) -> Run:
        if self._run is None:
            self._stack.callback(self._accelerator.free_memory)
            self._stack.enter_context(kept_modes(self._model))
            frozen = frozen_names(self._model, self._config.freeze)
            self._stack.enter_context(frozen_parameters(self._model, frozen))
            last = uses_channels_last(self._config.channels_last, self._accelerator.device)
            self._stack.enter_context(channels_last(self._model, last))
            self._run = prepare(
                self._model, self._train_loader, self._config, self._accelerator, self._objective, frozen, self._track
            )
        return self._run
