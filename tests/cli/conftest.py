"""What the command line is called with, and coupling graphs that its calls have in common."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import DIGITS
from torch import nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.operate import job_inputs
from surgeon.operate.images import trace_for_images


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, in a folder of its own."""
    path = tmp_path / "digits.safetensors"
    path.write_bytes(DIGITS.read_bytes())
    return path


class Traced:
    """A network and its images, equal to others where the coupling graph depends on nothing that differs."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        tensors = model.state_dict(keep_vars=True)
        owners = {id(tensor): name for name, tensor in tensors.items()}
        shapes = [(name, owners[id(one)], tuple(one.shape), str(one.dtype)) for name, one in tensors.items()]
        self.model, self.images = model, images
        code = tuple(getattr(type(module).forward, "__code__", None) for module in model.modules())
        self.key: Any = (str(model), code, tuple(shapes), tuple(images.shape), model.training)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.key == other.key


@cache
def _graph(traced: Traced) -> CouplingGraph:
    return trace_for_images(traced.model, traced.images)


@pytest.fixture(scope="module", autouse=True)
def _common_graphs() -> Iterator[None]:
    """Trace networks that are alike once for all jobs, which takes most of them longer than all that follows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_inputs, "trace_for_images", lambda model, images: _graph(Traced(model, images)))
        yield
