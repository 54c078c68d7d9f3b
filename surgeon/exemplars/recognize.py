"""Whether a synthesis has worked: what the network says to the finished images."""

import torch
from torch import Tensor, nn

from surgeon.data import ImageConfig
from surgeon.exemplars.maker import LEVELS
from surgeon.exemplars.prepare import still
from surgeon.tuning.outputs import split_outputs


@torch.no_grad()
def recognized_share(
    model: nn.Module,
    images: ImageConfig,
    pixels: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> float:
    """Return the share of images, 0 … 1, that a network takes for the class that they were made for.

    Args:
        model: a classifier, on `device`; it is left as it was.
        images: mean and standard deviation of its input.
        pixels: uint8 [N, C, H, W].
        labels: int64 [N].
        batch_size: images that are passed through it together.
        device: where to compute.
    """
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (images.mean, images.std))
    hits = 0
    with still(model):
        for some, wanted in zip(pixels.split(batch_size), labels.split(batch_size), strict=True):
            logits, _ = split_outputs(model((some.to(device) / LEVELS - mean) / std))
            hits += int((logits.argmax(1).cpu() == wanted).sum())
    return hits / len(labels)
