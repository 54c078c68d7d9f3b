"""What a network answers to images, or plainly why it cannot."""

from typing import Any

from torch import Tensor, nn

from surgeon.errors import DataError
from surgeon.memory import is_shortage

# What the layers of a network raise on an input that they cannot take.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip

_OF_SEQUENCES = (nn.Embedding, nn.EmbeddingBag, nn.Conv1d, nn.RNNBase)


def answer_to(model: nn.Module, images: Tensor, remedy: str) -> Any:
    """Pass images through a network.

    Args:
        model: the network, in the mode that it is to answer in.
        images: float [B, C, H, W], on its device.
        remedy: what to do where it cannot take images of this size.

    Raises:
        DataError: it cannot take them.
    """
    try:
        return model(images)
    except _FAILURES as error:
        if is_shortage(error):
            raise
        raise _refusal(model, images, error, remedy) from error


def _refusal(model: nn.Module, images: Tensor, error: Exception, remedy: str) -> DataError:
    name, first = next(
        ((name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))),
        ("", model),
    )
    if isinstance(first, _OF_SEQUENCES):
        return DataError(
            f"The network takes no images: its first layer, '{name}', is of the kind {type(first).__name__}.",
            "Operate on it from Python: `surgeon.apply` takes batches of any kind, with example_input=, loss= and "
            "inputs=.",
        )
    size = ",".join(map(str, images.shape[1:]))
    reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
    return DataError(f"The network cannot take images of {size} (channels, height, width): {reason}.", remedy)
