"""Whether a network is a classifier of images, which is what exemplars can be made from."""

from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import ArchitectureError, DataError, SurgeonError
from surgeon.tuning.outputs import split_outputs

FEWEST_CLASSES = 2

# What the layers of a network raise on an input that they cannot take.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def check_classifier(model: nn.Module, shape: tuple[int, int, int], classes: int, device: torch.device | str) -> None:
    """Pass one image through a network, and back, and say plainly why no exemplars can be made from it.

    Args:
        model: the network in evaluation mode, on `device`.
        shape: channels, height and width of its images.
        classes: number of classes.
        device: where to compute.

    Raises:
        ArchitectureError: it does not return one row of `classes` logits an image.
        DataError: it has one class, does not take such images, or its answer does not depend on them.
    """
    if classes < FEWEST_CLASSES:
        raise DataError(
            "The network has one class only, and no image of one class differs from another's.",
            "Give images with --data, or a network with several classes.",
        )
    image = torch.zeros(1, *shape, device=device, requires_grad=True)
    logits = _answer(model, image)
    # A network without its last layer returns features.
    if getattr(model, "num_classes", classes) != classes or logits.shape != (1, classes):
        raise ArchitectureError(
            f"The network has no classifier of {classes} classes: it returns {logits.shape[1]} values an image.",
            "Give a checkpoint with its classifier, or images with --data.",
        )
    if not logits.requires_grad:
        raise DataError("The network's answer has no gradient on its image.", "Give images with --data.")


def takes_size(model: nn.Module, shape: tuple[int, int, int], device: torch.device | str) -> bool:
    """Return whether a network classifies images of this shape: channels, height and width."""
    try:
        with torch.no_grad():
            split_outputs(model(torch.zeros(1, *shape, device=device)))
    except (*_FAILURES, SurgeonError):
        return False
    return True


def _answer(model: nn.Module, image: Tensor) -> Tensor:
    try:
        outputs: Any = model(image)
    except _FAILURES as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise DataError(
            f"The network cannot take images of {','.join(map(str, image.shape[1:]))} (channels, height, width): "
            f"{reason}.",
            "Give another --exemplar-size, or images with --data.",
        ) from error
    logits, _ = split_outputs(outputs)
    return logits
