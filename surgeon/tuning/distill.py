"""The training loss: labels of whole or mixed images, auxiliary classifiers, and a teacher's soft targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.errors import DataError, OptionError
from surgeon.tuning.mixing import Mixing
from surgeon.tuning.outputs import split_outputs

# Szegedy et al., Going Deeper with Convolutions, 2015, section 5.
AUXILIARY_WEIGHT = 0.3

LABELS = "Give images whose labels count the network's classes from 0."


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compare the student's softened probabilities with the teacher's: `T² · KL(softmax(t/T) ‖ softmax(s/T))`.

    The gradient is that of the cross-entropy with soft targets; `T²` keeps its size apart from T (Hinton et al.,
    Distilling the Knowledge in a Neural Network, 2015, section 2).

    Args:
        student: logits [B, classes].
        teacher: logits [B, classes].
        temperature: T, above 0.

    Returns:
        The mean over the images, a scalar.
    """
    target = functional.log_softmax(teacher.float() / temperature, dim=1)
    answer = functional.log_softmax(student.float() / temperature, dim=1)
    return functional.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Objective:
    """The loss that is minimized: `(1 - w) · cross-entropy + w · soft targets`, w = 0 without a teacher.

    The cross-entropy is that of the logits plus 0.3 times that of each auxiliary classifier. The teacher sees mixed
    images as the network does.

    Args:
        smoothing: label smoothing, in [0, 1).
        teacher: a network in evaluation mode on the images' device, or None.
        teacher_weight: w, in [0, 1].
        temperature: temperature of the soft targets, above 0.
        mixing: mixes the images; the labels are then soft targets, in the images' shares; or None.
    """

    smoothing: float = 0.0
    teacher: nn.Module | None = None
    teacher_weight: float = 0.5
    temperature: float = 4.0
    mixing: Mixing | None = None

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Pass the images through the network and return the loss, a scalar.

        Args:
            model: the network in training mode.
            batch: images float [B, C, H, W] and labels int64 [B].

        Raises:
            OptionError: the teacher knows another number of classes than the network.
            DataError: a label is no class of the network's; on an accelerator, where looking takes long, torch's error.
        """
        images, labels = batch
        shares = None
        if self.mixing is not None:
            images, shares = self.mixing(images)
        logits, auxiliary = split_outputs(model(images))
        _check_labels(labels, logits.shape[1])
        targets = labels if shares is None else shares @ functional.one_hot(labels, logits.shape[1]).to(shares)
        loss = self._cross_entropy(logits, targets)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * self._cross_entropy(other, targets)
        if self.teacher is None:
            return loss
        soft = soft_target_loss(logits, self._ask(self.teacher, images, logits.shape[1]), self.temperature)
        return (1 - self.teacher_weight) * loss + self.teacher_weight * soft

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), targets, label_smoothing=self.smoothing)

    @staticmethod
    def _ask(teacher: nn.Module, images: Tensor, classes: int) -> Tensor:
        with torch.no_grad():
            answer, _ = split_outputs(teacher(images))
        if answer.shape[1] != classes:
            raise OptionError(
                f"The teacher knows {answer.shape[1]} classes, but the network {classes}.",
                "Give a teacher trained on the same classes.",
            )
        return answer


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= classes)).any()):
        raise DataError(f"The network has {classes} classes, and a label of an image is none of them.", LABELS)
