"""BatchNorm's running statistics, measured anew."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from surgeon.errors import DataError, DivergenceError
from surgeon.measure.batches import Batches
from surgeon.modes import kept_modes
from surgeon.processes import add_up, count, own_count, shared, synchronized_batch_norm
from surgeon.progress import Track, count_images, no_progress
from surgeon.sound import is_finite, statistics


def recalibrate(
    model: nn.Module,
    batches: Batches,
    *,
    device: torch.device | str,
    track: Track = no_progress,
    fixed: Collection[nn.Module] = (),
) -> int:
    """Replace the running statistics of the BatchNorm layers by those of the images, and return how many ran.

    Mean and variance are the batches' means, each batch counted by its images. Only BatchNorm layers train
    meanwhile, so dropout and stochastic depth do not disturb the statistics. A batch of a single image has no variance
    and is left out. Modes and momenta are left as they were. Several processes get what one would, with batches as
    large as all of theirs together: each reads its share, and BatchNorm is synchronized. A last batch of fewer images
    than processes is left out.

    Args:
        model: on `device` already.
        batches: `(images float32 [B, C, H, W], labels)`.
        track: is told of every batch.
        fixed: BatchNorm layers that keep their statistics, and normalize by them meanwhile.

    Raises:
        DataError: no batch has two images.
        DivergenceError: they give statistics that are not finite; the statistics are as they were.
    """
    tracking = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    layers = [module for module in tracking if module not in set(fixed)]
    if not layers:
        return 0
    own = track(shared(batches, even=True), "recalibrating", own_count(count_images(batches)))
    # Of several processes each has at least one image of a batch, and all of them together at least two.
    images = (batch[0] for batch in own if count() > 1 or len(batch[0]) > 1)
    first = next(images, None)
    if first is None:
        raise DataError(
            "There is no batch of two or more images to recalibrate BatchNorm on.",
            "Give more images or a larger batch size, or leave the statistics as they are with --no-recalibrate "
            "(recalibrate=False in Python).",
        )
    before = {layer: {key: tensor.clone() for key, tensor in layer.state_dict().items()} for layer in tracking}
    kept = {layer: state for layer, state in before.items() if layer not in set(layers)}
    with kept_modes(model), _keep_momenta(tracking), synchronized_batch_norm(model):
        weighted = _weighted(itertools.chain([first], images), model, layers, kept)
        update_bn(weighted, model, device=torch.device(device))
    _check_statistics(model, layers, before)
    used = 0
    for layer in layers:
        if layer.num_batches_tracked:
            used += 1
        else:
            # An auxiliary head does not run in evaluation mode, and its statistics were only reset.
            layer.load_state_dict(before[layer])
    return used


def _check_statistics(
    model: nn.Module, layers: list[_BatchNorm], before: Mapping[_BatchNorm, Mapping[str, Tensor]]
) -> None:
    """Put everything back and refuse to go on where the images have given statistics that are no numbers."""
    own = {id(tensor) for layer in layers for tensor in (layer.running_mean, layer.running_var)}
    bad = [name for name, tensor in statistics(model) if id(tensor) in own and not is_finite(tensor)]
    if not bad:
        return
    for layer in layers:
        layer.load_state_dict(before[layer])
    raise DivergenceError(
        f"The images give running statistics that are no finite numbers, in '{bad[0]}' first.",
        "Check the images' normalization and the size of the weights, or leave the statistics as they are with "
        "--no-recalibrate (recalibrate=False in Python).",
    )


def _weighted(
    batches: Iterable[Tensor],
    model: nn.Module,
    layers: list[_BatchNorm],
    kept: Mapping[_BatchNorm, Mapping[str, Tensor]],
) -> Iterator[Tensor]:
    # update_bn has put the whole network into training mode and every momentum to None, which would count a last,
    # smaller batch as much as the others; and it has reset every statistic.
    model.eval()
    for layer, state in kept.items():
        layer.load_state_dict(state)
    for layer in layers:
        layer.training = True
    seen = 0
    for images in batches:
        number = int(add_up(torch.tensor(len(images))))
        seen += number
        for layer in layers:
            layer.momentum = number / seen
        yield images


@contextmanager
def _keep_momenta(layers: list[_BatchNorm]) -> Iterator[None]:
    # update_bn puts them back too, but not when it is interrupted.
    momenta = [layer.momentum for layer in layers]
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
