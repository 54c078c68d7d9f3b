"""Whether a job's images lie on the device."""

import dataclasses
from typing import Any

import torch
from torch.utils.data import Dataset

from surgeon.data import ImageData
from surgeon.data.images import ImageTensors
from surgeon.data.on_device import DeviceImages, why_not
from surgeon.errors import DataError
from surgeon.operate.inputs import Say
from surgeon.operate.job import Job


def placed_images(job: Job, data: ImageData, device: torch.device, say: Say) -> ImageData:
    """Return the data set with its training and validation images on the device, where the job wants them there.

    Raises:
        DataError: they are to be there, and cannot.
    """
    if not lie_on_device(job, data, device):
        return data
    reason = _why_not(data)
    if reason is not None:
        raise DataError(
            f"The data {data.name} cannot lie on the device: {reason}.", "Leave --device-data yes out, or use less."
        )
    say(f"The images are decoded once and stay on the device ({device}).")
    train, val = (_placed(images, device, job.workers) for images in (data.train, data.val))
    return dataclasses.replace(data, train=train, val=val)


def lie_on_device(job: Job, data: ImageData, device: torch.device) -> bool:
    """Tell whether a job wants its images on the device, where they are varied by other random numbers."""
    if not job.epochs or job.device_data == "no":
        return False
    return job.device_data == "yes" or (device.type == "cuda" and _why_not(data) is None)


def _why_not(data: ImageData) -> str | None:
    return why_not(data.train) or why_not(data.val)


def _placed(images: Dataset[Any], device: torch.device, workers: int) -> DeviceImages:
    assert isinstance(images, ImageTensors)
    return DeviceImages(images, device, workers)
