"""The second network of a method that mixes two, which may train along."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan
from surgeon.edit.plan_file import encode
from surgeon.edit.plan_reader import decode
from surgeon.errors import OptionError
from surgeon.operate.inputs import Subject, measured_inputs
from surgeon.operate.moments import forget
from surgeon.operate.several import agreed, placed
from surgeon.operate.soundness import check_operated
from surgeon.progress import Track, Training
from surgeon.tuning import BatchLoss, EpochByEpoch, State, TuningConfig
from surgeon.tuning.state import fitting_state
from surgeon.tuning.tensors import network_tensors, restore_network

SEED_SHIFT = 1
"""The partner sees the images in another order: two networks that learn the same have nothing to give each other."""


class Partner:
    """A network of the same architecture; where the operation repeats, it is trained and operated on in turn.

    Args:
        model: the partner, on the device; changed only if it trains along.
        subject: the network that it is the partner of.
        train: batches for training.
        tuning: the options of training, the same for both but for the seed.
        accelerator: the first network's device, precision and gradient accumulation, which are the partner's too.
        objective: see `tune`; both networks learn the same.
        state: what `state` returned in an earlier run with the same arguments, or None.

    Raises:
        CheckpointError: the state is not one of this partner.
    """

    def __init__(
        self,
        model: nn.Module,
        subject: Subject,
        train: DataLoader[Any] | None,
        tuning: TuningConfig,
        accelerator: Accelerator,
        objective: BatchLoss | None,
        state: State | None = None,
    ) -> None:
        self._model = placed(model, accelerator)
        self._subject = subject
        self._epochs: EpochByEpoch | None = None
        self._pending: Plan | None = None
        if getattr(subject.config, "every", None) and train is not None and tuning.epochs:
            settings = dataclasses.replace(tuning, seed=tuning.seed + SEED_SHIFT)
            training = None if state is None else self._restored(state)
            self._epochs = EpochByEpoch(
                model,
                train,
                settings,
                accelerator=accelerator,
                objective=objective,
                between_epochs=self._carry_out,
                track=_aside(subject.track),
                state=training,
            )

    @property
    def trains(self) -> bool:
        """Whether it is trained along."""
        return self._epochs is not None

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Its tensors by state-dict key, as they are now; they change when it trains."""
        return self._model.state_dict()

    def train_epoch(self) -> None:
        """Train it for one epoch, after the operation that was planned for it."""
        if self._epochs is None:
            return
        try:
            next(self._epochs)
        except OptionError as error:
            raise type(error)(f"Training the partner failed: {error.problem}", error.remedy) from error

    def plan(self, targets: tuple[str, ...], seed: int, progress: float) -> None:
        """Plan the operation on it, with the other network as it is now for its partner."""
        mine = dataclasses.replace(self._subject, model=self._model)
        # Copies: the other network is edited before this plan is carried out.
        other = {key: tensor.clone() for key, tensor in self._subject.model.state_dict().items()}
        inputs = measured_inputs(mine, targets, seed, {}, other, progress)
        self._pending = agreed(lambda: mine.method.make_plan(inputs, mine.config))

    def settle(self) -> None:
        """Carry out what was planned, or leave it to the next epoch if there is an optimizer with a memory of it."""
        if self._pending is not None and not (self._epochs is not None and self._epochs.begun):
            self._execute(self._pending)
            self._pending = None

    def state(self) -> State | None:
        """Return what decides how it goes on, or None where it does not train along."""
        if self._epochs is None:
            return None
        training = self._epochs.state()
        return {
            # A training under way has the network in its own state.
            "network": network_tensors(self._model) if training is None else None,
            "training": training,
            "pending": None if self._pending is None else encode(self._pending),
        }

    def _restored(self, state: State) -> State | None:
        """Take up all of a state but the training's, which is returned."""
        with fitting_state():
            if state["network"] is not None:
                restore_network(self._model, state["network"])
            if state["pending"] is not None:
                tensors, text = state["pending"]
                self._pending = decode(tensors, text, "The partner's state")
            training: State | None = state["training"]
            return training

    def close(self) -> None:
        """Stop training it, and put its modes back."""
        if self._epochs is not None:
            self._epochs.close()

    def _execute(self, made: Plan) -> None:
        execute(self._model, made)
        check_operated(self._model, f"{self._subject.method.name} on the partner")

    def _carry_out(self, epoch: int, optimizer: Optimizer) -> None:
        if self._pending is not None:
            self._execute(self._pending)
            forget(optimizer, self._model, self._pending)
            self._pending = None


def _aside(track: Track) -> Track:
    """Report the partner's epochs as passes of their own: they are not those of the fine-tuning."""

    def report(
        batches: Iterable[Any], description: str, total_images: int | None = None, *, training: Training | None = None
    ) -> Iterator[Any]:
        del training
        return track(batches, f"partner's {description}", total_images)

    return report
