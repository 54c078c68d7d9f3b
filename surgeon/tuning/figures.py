"""The figures of a task of one's own, measured after every epoch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from surgeon.errors import DataError, OptionError
from surgeon.progress import Track, count_images, no_progress
from surgeon.tuning.batches import images_in
from surgeon.tuning.evaluate import inference
from surgeon.tuning.loaders import whole_loader
from surgeon.tuning.records import Metrics, Score

Metric = Callable[[nn.Module, Iterable[Any]], Mapping[str, float] | Metrics]
"""`metric(model, batches)` passes all batches through the network and returns figures by name.

The first of them says which epoch is the best, and larger is better, unless `Metrics` says otherwise. The network is in
evaluation mode and has no gradients; the batches are as the loader gives them, on the network's device.
"""


def score_by(metric: Metric, loader: DataLoader[Any], *, accelerator: Accelerator, track: Track = no_progress) -> Score:
    """Make what `tune` calls after every epoch from a metric.

    Whatever the metric counts, it counts over all images at once, in full precision: of several processes each goes
    through all of them, so no figure has to be put together from parts.

    Args:
        metric: see `Metric`.
        loader: the batches that it is given, without random augmentation.
        accelerator: device and processes.
        track: called around the loader, to show progress.

    Returns:
        The function; it raises OptionError where the metric returns no figures, and DataError where the loader gives
        no batch.
    """

    def score(model: nn.Module) -> Metrics:
        with inference(model, accelerator) as network:
            return _named(metric(network, _batches(loader, accelerator, track)))

    return score


def mean_loss(loss: Callable[[nn.Module, Any], Tensor], accelerator: Accelerator) -> Metric:
    """Make a metric from a training loss: its mean over the images, of which the smallest is best.

    Args:
        loss: `loss(model, batch)` returns the mean over the batch's images, a scalar.
        accelerator: the precision, which is that of training.
    """

    def metric(model: nn.Module, batches: Iterable[Any]) -> Metrics:
        total, images_seen = torch.zeros((), device=accelerator.device), 0
        for batch in batches:
            with accelerator.autocast():
                value = loss(model, batch)
            images = images_in(batch)
            total += value.detach() * images
            images_seen += images
        return Metrics({"loss": total.item() / images_seen}, best_by="loss", larger_is_better=False)

    return metric


def _batches(loader: DataLoader[Any], accelerator: Accelerator, track: Track) -> Iterator[Any]:
    empty = True
    for batch in track(whole_loader(loader, accelerator), "evaluating", count_images(loader)):
        empty = False
        yield batch
    if empty:
        raise DataError("There is no image to evaluate on.", "Give a data set with validation images.")


def _named(figures: Any) -> Metrics:
    """Return what a metric gave as figures by name.

    Raises:
        OptionError: it is something else.
    """
    if isinstance(figures, Metrics):
        return figures
    try:
        values = {str(name): float(value) for name, value in figures.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise OptionError(
            f"The metric returned a {type(figures).__name__}, not numbers by name.",
            'Return, for example, {"mean IoU": 0.5}.',
        ) from error
    if not values:
        raise OptionError("The metric returned no figure.", 'Return at least one, for example {"mean IoU": 0.5}.')
    return Metrics(values, best_by=next(iter(values)))
