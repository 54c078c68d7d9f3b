"""What a run of a comparison is known by: its options, and the content of the files that it reads."""

import dataclasses
import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from surgeon.checkpoint import Architecture, read
from surgeon.checkpoint.architecture import split_file
from surgeon.data import ImageData
from surgeon.data.digits import NAME as DIGITS
from surgeon.data.named import HUGGING_FACE, prefix
from surgeon.operate.device_images import lie_on_device
from surgeon.operate.identity import LIBRARIES
from surgeon.operate.job import Job
from surgeon.operate.job_loaders import images_identity
from surgeon.operate.run import NOT_OF_THE_RESULT

OTHER_LIBRARIES = ("torchvision", "pillow", "accelerate")
"""Packages that the numbers of a run may depend on beside `LIBRARIES`: they read images and divide the work."""

BY_CONTENT = {
    "arch", "data", "data-root", "device-data", "layers", "method", "no-recalibrate", "partner", "seed", "set",
    "teacher",
}  # fmt: skip
"""Options of a recipe that a run is told from others by what they mean, and not by how they are written."""


def recipe(job: Job, terms: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run is known by, as JSON types.

    Args:
        job: what the run does.
        terms: what is known of the files that it reads, and of the device.
    """
    asked = {name: value for name, value in job.recipe.items() if name not in NOT_OF_THE_RESULT | BY_CONTENT}
    return {
        **terms,
        "method": job.method,
        "layers": list(job.layers),
        "init": job.init,
        "weights": job.weights,
        "recalibrate": job.recalibrate,
        "batch_size": job.batch_size,
        "seed": job.seed,
        "tuning": {**dataclasses.asdict(job.tuning), "epochs": job.epochs, "seed": job.seed},
        "asked": asked,
        **{name: metadata.version(name) for name in (*LIBRARIES, *OTHER_LIBRARIES)},
    }


def files_terms(job: Job) -> dict[str, str | None]:
    """Return the SHA-256 of the files of weights that a job names; None where it names none.

    Raises:
        CheckpointError: one cannot be read.
    """
    files = {"checkpoint": job.checkpoint, "partner": job.partner, "teacher": job.teacher}
    return {
        name: str(file) if file == "original" else None if file is None else read(Path(file)).sha256
        for name, file in files.items()
    }


def architecture_term(architecture: Architecture) -> list[Any]:
    """Return what tells an architecture from others: of a file of code its content, wherever it lies."""
    if architecture.source != "file":
        return [str(architecture), dict(architecture.arguments)]
    file, function = split_file(architecture.name)
    return [function, hashlib.sha256(file.read_bytes()).hexdigest(), dict(architecture.arguments)]


def images_term(job: Job, data: ImageData, device: torch.device) -> list[Any]:
    """Return what tells images from others, and in which order and where they are varied.

    Args:
        job: what reads them.
        data: its images, of its own seed.
        device: that it computes on.
    """
    _, *others = images_identity(job, data)
    # The workers that share a stream decide its order.
    workers = job.workers if isinstance(data.train, IterableDataset) else None
    return [_located(data.name), *others, workers, lie_on_device(job, data, device)]


def _located(name: str) -> str:
    """Return a data set's name, with its folder as it is spelled from everywhere."""
    kind = prefix(name)
    if name == DIGITS or kind not in ("", HUGGING_FACE):
        return name
    folder = Path(name.partition("/")[2] if kind else name)
    return f"{kind}:{folder.resolve()}" if folder.is_dir() else name
