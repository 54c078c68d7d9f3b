"""Whether a network is a classifier of images, which is what exemplars can be made from."""

import torch
from torch import nn

from surgeon.data.open import FEWEST_CLASSES
from surgeon.errors import ArchitectureError, DataError, DivergenceError
from surgeon.exemplars.head import layer_outputs
from surgeon.tuning.answers import answer_to
from surgeon.tuning.outputs import split_outputs

ANY_TASK = "operate on it from Python: `surgeon.apply` takes networks of any task, with train=, loss= and metric="
"""What can be done with a network that classifies nothing; images with --data have classes too."""


def check_classifier(model: nn.Module, shape: tuple[int, int, int], device: torch.device | str) -> int:
    """Pass one empty image through a network, and say plainly why no exemplars can be made from it.

    Args:
        model: the network in evaluation mode, on `device`.
        shape: channels, height and width of its images.
        device: where to compute.

    Returns:
        The number of its classes.

    Raises:
        ArchitectureError: it does not return one row of logits an image, or nothing in it makes logits.
        DataError: it has one output, does not take such images, or its answer does not depend on them.
        DivergenceError: its answer is NaN or infinite.
    """
    image = torch.zeros(1, *shape, device=device, requires_grad=True)
    with layer_outputs(model) as outputs:
        logits, _ = split_outputs(answer_to(model, image, "Give another --exemplar-size, or images with --data."))
    classes = logits.shape[1]
    # timm's way of saying how many classes there are, zero where the classifier was taken off.
    declared = getattr(model, "num_classes", None)
    declared = declared if isinstance(declared, int) else None
    if declared == 0:
        raise _headless(classes)
    if logits.shape[0] != 1 or declared not in (None, classes):
        known = "one row" if declared is None else f"{declared} classes"
        raise ArchitectureError(
            f"The network's answer to one image has the shape {list(logits.shape)}, and not that of {known}.",
            "Give a network that classifies images, with its classifier.",
        )
    if classes < FEWEST_CLASSES:
        raise DataError(
            "The network has one output only, and no image of one class differs from another's.",
            f"{ANY_TASK[0].upper()}{ANY_TASK[1:]}.",
        )
    if not logits.requires_grad:
        raise DataError("The network's answer has no gradient on its image.", "Give images with --data.")
    if declared is None and not outputs.make(logits):
        raise _headless(classes)
    if not bool(logits.isfinite().all()):
        raise DivergenceError(
            "The network answers an empty image with NaN or infinity.", "Check the checkpoint's weights."
        )
    return classes


def takes_size(model: nn.Module, shape: tuple[int, int, int], device: torch.device | str) -> bool:
    """Return whether a network classifies images of this shape: channels, height and width."""
    try:
        with torch.no_grad():
            split_outputs(answer_to(model, torch.zeros(1, *shape, device=device), ""))
    except (DataError, ArchitectureError):
        return False
    return True


def _headless(features: int) -> ArchitectureError:
    return ArchitectureError(
        f"The network has no classifier: it returns {features} features an image, and no image of a class can be made "
        "from it.",
        f"Give a checkpoint with its classifier, or {ANY_TASK}.",
    )
