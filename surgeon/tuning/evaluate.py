"""Scores and logits of a network on a set of images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from surgeon.errors import DataError, OptionError
from surgeon.modes import kept_modes
from surgeon.processes import add_up, own_count
from surgeon.progress import Track, count_images, no_progress
from surgeon.tuning.distill import LABELS
from surgeon.tuning.loaders import own_loader, whole_loader
from surgeon.tuning.outputs import split_outputs
from surgeon.tuning.sharding import check_enough, on_device


@dataclass(frozen=True)
class Scores:
    """What a network achieves on a set of images.

    Args:
        top1: images whose label has the largest logit, in percent.
        top5: images whose label is among the five largest logits, in percent; 100 where there are at most five classes.
        loss: mean cross-entropy, in nats.
        images: number of images.
        seconds: wall-clock time.
    """

    top1: float
    top5: float
    loss: float
    images: int
    seconds: float

    @property
    def rank(self) -> float:
        """What is compared between epochs: larger is better."""
        return self.top1


def evaluate(
    model: nn.Module, loader: DataLoader[Any], *, accelerator: Accelerator, track: Track = no_progress
) -> Scores:
    """Count the network's right answers, exactly: each process asks about its share of the images, each image once.

    A row of logits with a NaN counts as wrong.

    Args:
        model: the network, the same in all processes and not wrapped for them; it is moved to the accelerator's
            device (with FSDP a divided copy of it), and its mode is kept.
        loader: batches of images float [B, C, H, W] and labels int64 [B].
        accelerator: device, precision and processes.
        track: called around the loader, to show progress.

    Raises:
        DataError: the loader holds no image, or a label is no class of the network's.
        ArchitectureError: the network does not return one row of logits an image.
    """
    start = time.perf_counter()
    counts = torch.zeros(4, dtype=torch.int64, device=accelerator.device)
    loss = torch.zeros((), device=accelerator.device)
    own = own_loader(loader, accelerator, even=False)
    with inference(model, accelerator) as network:
        check_enough(network, count_images(loader))
        for images, labels in track(own, "evaluating", own_count(count_images(loader))):
            with accelerator.autocast():
                answer, _ = split_outputs(network(images))
            # Without a class of its own an image is counted, and refused at the end: looking now makes the host wait.
            known = (labels >= 0) & (labels < answer.shape[1])
            first, first_five, losses = _scores_of_images(answer.float(), labels.where(known, 0))
            counts += torch.stack([first.sum(), first_five.sum(), torch.ones_like(labels).sum(), (~known).sum()])
            loss += losses.sum()
    top1, top5, images_seen, unknown = add_up(counts).tolist()
    if images_seen == 0:
        raise DataError("There is no image to evaluate on.", "Give a data set with validation images.")
    if unknown:
        raise DataError(f"{unknown} of {images_seen} images have a label that is no class of the network's.", LABELS)
    return Scores(
        top1=100 * top1 / images_seen,
        top5=100 * top5 / images_seen,
        loss=add_up(loss).item() / images_seen,
        images=images_seen,
        seconds=time.perf_counter() - start,
    )


def logits(
    model: nn.Module, loader: DataLoader[Any], *, accelerator: Accelerator, track: Track = no_progress
) -> Tensor:
    """Collect the network's logits in the order of the loader; every process asks about all images.

    Args:
        model: the network, not wrapped for several processes; it is moved to the accelerator's device, and its mode is
            kept.
        loader: batches of images float [B, C, H, W] and labels int64 [B], not shuffled.
        accelerator: device, precision and processes.
        track: called around the loader, to show progress.

    Returns:
        Logits float32 [N, classes] on the CPU.

    Raises:
        DataError: the loader holds no image.
        ArchitectureError: the network does not return one row of logits an image.
    """
    whole = whole_loader(loader, accelerator)
    rows = []
    with inference(model, accelerator) as network:
        for images, _ in track(whole, "collecting logits", count_images(loader)):
            with accelerator.autocast():
                answer, _ = split_outputs(network(images))
            rows.append(answer.float().cpu())
    if not rows:
        raise DataError("There is no image to collect logits of.", "Give a data set with images.")
    return torch.cat(rows)


def compare_logits(reference: Tensor, other: Tensor) -> tuple[float, float]:
    """Tell how far a network's answers are from those of the original on the same images.

    Args:
        reference: logits [N, classes] of the original.
        other: logits [N, classes].

    Returns:
        The drift `‖other - reference‖₂ / ‖reference‖₂` over all logits, and the agreement, the share in [0, 1] of
        images with the same largest logit.

    Raises:
        OptionError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise OptionError(
            f"Logits of shape {list(other.shape)} cannot be compared with logits of shape {list(reference.shape)}.",
            "Compare networks with the same classes on the same images.",
        )
    distance, size = (torch.linalg.vector_norm(x, dtype=torch.float64) for x in (other - reference, reference))
    drift = torch.where(distance == 0, distance, distance / size)
    agreement = (reference.argmax(1) == other.argmax(1)).double().mean()
    return drift.item(), agreement.item()


@contextmanager
def inference(model: nn.Module, accelerator: Accelerator) -> Iterator[nn.Module]:
    """Evaluate a network without gradients while the context lasts; what it yields computes, see `on_device`."""
    with on_device(model, accelerator.device) as network, kept_modes(network), torch.no_grad():
        network.eval()
        yield network


def _scores_of_images(answer: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for every image whether its label is first and whether it is among the first five, and its loss."""
    best = answer.topk(min(5, answer.shape[1]), dim=1).indices
    hits = (best == labels[:, None]) & ~answer.isnan().any(dim=1, keepdim=True)
    return hits[:, 0], hits.any(dim=1), functional.cross_entropy(answer, labels, reduction="none")
