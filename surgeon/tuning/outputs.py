"""What a classifier returns."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from surgeon.errors import ArchitectureError


def split_outputs(outputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Tell the logits from those of the auxiliary classifiers (GoogLeNet, Inception-v3).

    Args:
        outputs: what the network returned: a tensor, or a tuple, list or mapping of tensors, nested or not.

    Returns:
        The first tensor, shape [B, classes], and every further tensor of the same shape.

    Raises:
        ArchitectureError: the first tensor is not one row of logits an image.
    """
    first, *others = tuple(_tensors(outputs)) or (None,)
    if first is None or first.dim() != 2:
        returned = "no tensor" if first is None else f"a tensor of shape {list(first.shape)}"
        raise ArchitectureError(
            f"The network returns {returned}, not one row of class logits an image.",
            "Give a network that classifies images, with its classifier.",
        )
    return first, tuple(tensor for tensor in others if tensor.shape == first.shape)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, tuple | list):
        for value in outputs:
            yield from _tensors(value)
