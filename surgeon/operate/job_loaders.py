"""The batches of a job on files."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from surgeon.data import ImageData, make_loader
from surgeon.data.images import ImageTensors
from surgeon.operate.job import Job
from surgeon.processes import count
from surgeon.progress import count_images
from surgeon.tuning.modes import has_batch_norm


def training_loader(job: Job, model: nn.Module, data: ImageData) -> DataLoader[Any]:
    return loader(job, data.train, shuffle=True, drop_last=leaves_single_image(job, model, data))


def loader(job: Job, dataset: Any, *, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Any]:
    return make_loader(
        dataset,
        batch_size=job.batch_size,
        workers=job.workers,
        shuffle=shuffle,
        drop_last=drop_last,
        seed=job.seed,
        pin_memory=torch.cuda.is_available(),
    )


def images_identity(job: Job, data: ImageData) -> list[Any]:
    """Return what tells images from others, as far as that shows without reading any."""
    parts = data.train, data.val
    names = [part.names_sha256 for part in parts if isinstance(part, ImageTensors)]
    return [data.name, dict(data.source), *(count_images(loader(job, part)) for part in parts), *names]


def leaves_single_image(job: Job, model: nn.Module, data: ImageData) -> bool:
    """Whether the last batch of an epoch has one image, of which BatchNorm may have no statistics."""
    images = count_images(loader(job, data.train))
    return job.epochs > 0 and has_batch_norm(model) and images is not None and images % (job.batch_size * count()) == 1


def trains_batch_norm(job: Job, model: nn.Module) -> bool:
    return job.has_images and (job.epochs > 0 or job.recalibrate) and has_batch_norm(model)
