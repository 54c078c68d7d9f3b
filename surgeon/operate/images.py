"""Whether a network takes the images that it is going to be given."""

import torch
from torch import Tensor, nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.errors import DataError, TraceError
from surgeon.modes import kept_modes
from surgeon.tuning.answers import answer_to


def trace_for_images(model: nn.Module, images: Tensor) -> CouplingGraph:
    """Return the coupling graph of a network, and say plainly why where it does not take the images.

    Args:
        model: the network.
        images: float32 [B, C, H, W].

    Raises:
        DataError: the network cannot take images of this size.
        TraceError: it can, but its operations cannot be recorded.
    """
    try:
        return trace(model, images)
    except TraceError:
        # Only a network that runs on these images is at fault itself.
        check_input(model, images)
        raise


OTHER_SIZE = "Give another --input-size, or leave it out to use the network's own."


def check_input(model: nn.Module, images: Tensor, remedy: str = OTHER_SIZE) -> None:
    """Pass images through a network once, and say plainly why it does not take them.

    Args:
        model: the network; its mode is kept, and nothing in it changes.
        images: float32 [B, C, H, W]; B = 1 is enough.
        remedy: what to do where it cannot take images of this size.

    Raises:
        DataError: the network cannot take images of this size.
    """
    size = ",".join(str(length) for length in images.shape[1:])
    _check_channels(model, images.shape[1], size)
    with kept_modes(model), torch.no_grad():
        model.eval()
        answer_to(model, images[:1], remedy)


def _check_channels(model: nn.Module, channels: int, size: str) -> None:
    # The first convolution tells, unless it reads something else than the images, such as patches.
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and channels in (1, 3) and first.in_channels in (1, 3) and first.in_channels != channels:
        raise DataError(
            f"The network takes images of {first.in_channels} channels, and {size} has {channels}.",
            f"Give an --input-size that starts with {first.in_channels}, or leave it out to use the network's own.",
        )
