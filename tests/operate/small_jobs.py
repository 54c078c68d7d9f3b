"""Jobs on a small network that begins with random weights, and how to run them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset
from two_stages import EXAMPLE, loader

from surgeon.data import ImageData
from surgeon.operate.job import Job
from surgeon.operate.record import Record
from surgeon.operate.run import run_job
from surgeon.progress import no_progress
from surgeon.tuning import TuningConfig

ARCH = f"{Path(__file__).resolve().parents[1]}/two_stages.py:Two"


def images(model: nn.Module) -> ImageData:
    data = loader().dataset
    assert isinstance(data, TensorDataset)
    listed: Any = [(image, int(label)) for image, label in data]
    return ImageData("three levels", ("a", "b", "c"), listed, listed, listed)


def make_job(checkpoint: Path | None, **others: Any) -> Job:
    values: dict[str, Any] = {
        "checkpoint": checkpoint,
        "method": None,
        "options": {},
        "layers": (),
        "arch": ARCH,
        "images": images,
        "example": lambda model: EXAMPLE,
        "output": None,
        "overwrite": False,
        "epochs": 1,
        "tuning": TuningConfig(lr=0.05),
        "teacher": None,
        "partner": None,
        "recalibrate": False,
        "seed": 5,
        "batch_size": 8,
        "workers": 0,
        "init": "random",
    }
    return Job(**{**values, **others})


def run(job: Job, **hooks: Any) -> Record:
    given: dict[str, Any] = {"track": no_progress, "say": lambda text: None}
    nothing = {"on_stage": lambda stage: None, "on_epoch": lambda record: None}
    return run_job(job, **{**given, **nothing, **hooks})


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def interrupt(record: Any) -> None:
    """End a run when its first epoch is over."""
    raise KeyboardInterrupt
