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
    reason = why_not(data.train) or why_not(data.val)
    wanted = job.device_data == "yes" or (job.device_data == "auto" and device.type == "cuda" and reason is None)
    if not job.epochs or not wanted:
        return data
    if reason is not None:
        raise DataError(
            f"The data {data.name} cannot lie on the device: {reason}.", "Leave --device-data yes out, or use less."
        )
    say(f"The images are decoded once and stay on the device ({device}).")
    train, val = (_placed(images, device, job.workers) for images in (data.train, data.val))
    return dataclasses.replace(data, train=train, val=val)


def _placed(images: Dataset[Any], device: torch.device, workers: int) -> DeviceImages:
    assert isinstance(images, ImageTensors)
    return DeviceImages(images, device, workers)
