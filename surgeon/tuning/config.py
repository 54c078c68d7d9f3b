"""The options of fine-tuning."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from surgeon.errors import OptionError

Switch = Literal["auto", "yes", "no"]
SWITCHES: tuple[Switch, ...] = ("auto", "yes", "no")
MixedPrecision = Literal["auto", "no", "fp16", "bf16"]
MIXED_PRECISIONS: tuple[MixedPrecision, ...] = ("auto", "no", "fp16", "bf16")

CHANGEABLE = (
    "lr", "momentum", "sched", "decay_rate", "decay_milestones", "warmup_epochs", "clip_grad", "mixed_precision",
)  # fmt: skip
"""Options that a run may go on with another value of: what helps one that has diverged."""


@dataclass(frozen=True)
class TuningConfig:
    """How a network is fine-tuned.

    Args:
        epochs: passes over the training images, at least 0 (`tune` itself wants at least 1).
        opt: a name of timm's optimizer factory; there "sgd" is SGD with Nesterov momentum, "momentum" the plain one.
        lr: learning rate of the first update after the warmup, above 0.
        momentum: momentum of the optimizers that have one, in [0, 1).
        weight_decay: weight decay of all parameters but biases and normalization's, at least 0.
        sched: a name of timm's scheduler factory, or "none"; it is stepped every update.
        decay_rate: factor of the learning rate at every step of "step" and "multistep", in (0, 1].
        decay_milestones: epochs at which "multistep" takes a step, ascending and above 0; none for one half and three
            quarters of them.
        warmup_epochs: epochs of linear warmup, in 0..epochs.
        smoothing: label smoothing, in [0, 1) (Szegedy et al. 2016, section 7).
        mixup: α of mixup, at least 0, where 0 is none; see `Mixing`.
        cutmix: α of cutmix, likewise.
        model_ema: evaluate and keep a moving average of the weights instead of the weights themselves; see `Average`.
        model_ema_decay: its decay, in [0, 1).
        mixed_precision: what `make_accelerator` is asked for: "auto", "no", "fp16" or "bf16".
        accumulate: batches whose gradients are added up for one update, at least 1; what is left at an epoch's end is
            an update of its own. With 1, an accelerator that was told another number keeps it.
        channels_last: lay weights and images out channels-last: "auto" (on GPUs), "yes" or "no".
        compile: train through torch.compile.
        teacher_weight: share of the teacher's soft targets in the loss, in [0, 1].
        teacher_temperature: temperature of the soft targets, above 0.
        orthogonal_loss: λ of the orthogonal loss, at least 0, where 0 is none; see `WithOrthogonalLoss`.
        clip_grad: largest L2 norm of the gradient of all parameters, above 0, or None.
        freeze: names and globs of modules and parameters that keep their values; see `frozen_names`.
        layer_decay: factor of the learning rate from a layer to the one before it, in (0, 1], by timm's order of the
            layers; None for one rate for all.
        seed: seed of the images' order, the augmentation and dropout, at least 0.

    Raises:
        OptionError: a value is out of its range.
    """

    epochs: int = 10
    opt: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    sched: str = "cosine"
    decay_rate: float = 0.1
    decay_milestones: tuple[float, ...] = ()
    warmup_epochs: int = 0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    mixed_precision: MixedPrecision = "auto"
    accumulate: int = 1
    channels_last: Switch = "auto"
    compile: bool = False
    teacher_weight: float = 0.5
    teacher_temperature: float = 4.0
    orthogonal_loss: float = 0.0
    clip_grad: float | None = None
    freeze: tuple[str, ...] = ()
    layer_decay: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 0, "at least 0")
        _check("lr", self.lr, 0 < self.lr < float("inf"), "a number above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < float("inf"), "at least 0")
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, f"in 0..{self.epochs}")
        _check("decay_rate", self.decay_rate, 0 < self.decay_rate <= 1, "in (0, 1]")
        ascending = all(before < after for before, after in pairwise((0, *self.decay_milestones)))
        _check("decay_milestones", self.decay_milestones, ascending, "a list of epochs above 0 that ascends")
        _check("smoothing", self.smoothing, 0 <= self.smoothing < 1, "in [0, 1)")
        _check("mixup", self.mixup, 0 <= self.mixup < float("inf"), "at least 0")
        _check("cutmix", self.cutmix, 0 <= self.cutmix < float("inf"), "at least 0")
        _check("model_ema_decay", self.model_ema_decay, 0 <= self.model_ema_decay < 1, "in [0, 1)")
        known = ", ".join(MIXED_PRECISIONS)
        _check("mixed_precision", self.mixed_precision, self.mixed_precision in MIXED_PRECISIONS, f"one of {known}")
        _check("accumulate", self.accumulate, self.accumulate >= 1, "at least 1")
        _check("channels_last", self.channels_last, self.channels_last in SWITCHES, f"one of {', '.join(SWITCHES)}")
        _check("teacher_weight", self.teacher_weight, 0 <= self.teacher_weight <= 1, "in [0, 1]")
        _check("teacher_temperature", self.teacher_temperature, 0 < self.teacher_temperature < float("inf"), "above 0")
        _check("orthogonal_loss", self.orthogonal_loss, 0 <= self.orthogonal_loss < float("inf"), "at least 0")
        _check("clip_grad", self.clip_grad, self.clip_grad is None or self.clip_grad > 0, "above 0, or none")
        _check("layer_decay", self.layer_decay, self.layer_decay is None or 0 < self.layer_decay <= 1, "in (0, 1]")
        _check("seed", self.seed, self.seed >= 0, "at least 0")

    @property
    def mixes(self) -> bool:
        """Whether the training images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


def _check(option: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise OptionError(f"The fine-tuning option {option} is {value}.", f"Give a value that is {expected}.")
