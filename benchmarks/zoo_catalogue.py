"""The architectures of timm and torchvision: their names, families and sizes, and how to build each for a test."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import init_empty_weights
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model_builder, list_models

SMALL_SIZES = (96, 98, 112, 128, 160, 192, 224)
"""Image sizes to try before the architecture's own: multiples of the common patches and windows."""
TORCHVISION = "torchvision:"
BACKBONE = "backbone"

Images = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: as `--arch` spells it, e.g. `resnet50` (timm) or `torchvision:resnet50`.
        family: the library's module that defines it, e.g. `resnet` or `torchvision.segmentation.fcn`.
        parameters: number of parameters.
    """

    name: str
    family: str
    parameters: int


@dataclass(frozen=True)
class Specimen:
    """A built network, ready to trace.

    Attributes:
        model: the network.
        submodule: the part to trace, or None for the whole.
        example: positional arguments of (the part of) the network.
        shape: shape of the first of them.
    """

    model: nn.Module
    submodule: str | None
    example: tuple[torch.Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first argument."""
        return tuple(self.example[0].shape)


class _SkipInitialization(TorchFunctionMode):
    """Leave parameters as they are allocated: the proof overwrites all of them with values of its own."""

    SKIPPED = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SKIPPED and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


def _without_memory(create: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device; where its constructor computes with tensors, only its parameters."""
    try:
        with torch.device("meta"):
            return create()
    except NotImplementedError:
        with init_empty_weights(include_buffers=False):
            return create()


def families() -> dict[str, str]:
    """Return the family of every architecture, by name."""
    timm_families = {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}
    others = {TORCHVISION + name: get_model_builder(name).__module__.replace(".models", "") for name in list_models()}
    return dict(sorted(timm_families.items())) | others


def catalogue(path: Path, workers: int) -> list[Entry]:
    """Return all architectures, smallest first; their sizes are kept in the file `path`."""
    known = {row["name"]: Entry(**row) for row in json.loads(path.read_text())} if path.exists() else {}
    wanted = families()
    missing = [name for name in wanted if name not in known]
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for name, parameters in zip(missing, pool.map(count_parameters, missing, chunksize=20), strict=True):
                known[name] = Entry(name, wanted[name], parameters)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(entry) for entry in known.values()]))
    return sorted((known[name] for name in wanted), key=lambda entry: (entry.parameters, entry.name))


def count_parameters(name: str) -> int:
    """Return the number of parameters of an architecture."""
    model = build(name, size=None, meta=True).model
    return sum(parameter.numel() for parameter in model.parameters())


def smallest(entries: Sequence[Entry]) -> list[Entry]:
    """Return the smallest member of every family, smallest first."""
    first: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.parameters, entry.name)):
        first.setdefault(entry.family, entry)
    return list(first.values())


def sizes(name: str) -> tuple[int | None, ...]:
    """Return the image sizes to try, in order; None stands for the architecture's own."""
    if name.startswith(TORCHVISION):
        return (None,) if "mvit" in name else (*SMALL_SIZES, None)
    default = min(timm_config(name).input_size[1:])
    return (*(size for size in SMALL_SIZES if size < default), None)


def timm_config(name: str) -> Any:
    """Return timm's pretrained configuration of an architecture."""
    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()


def build(name: str, size: int | None, meta: bool, batch: int = 2) -> Specimen:
    """Build an architecture with uninitialized weights.

    Args:
        name: architecture.
        size: height and width of the images, pixels; None for the architecture's own.
        meta: whether to build it on the meta device, without memory.
        batch: number of images.
    """
    construction, submodule, example = _plan(name, size, batch)
    with _SkipInitialization():
        model = _without_memory(construction) if meta else construction()
    return Specimen(model.eval(), submodule, example)


def _plan(name: str, size: int | None, batch: int) -> tuple[Callable[[], nn.Module], str | None, Images]:
    """Return how to build an architecture, which part of it to trace, and that part's arguments."""
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION), size, batch)
    config = timm_config(name)
    channels, height, width = config.input_size
    arguments: dict[str, Any] = {"img_size": size} if size is not None and config.fixed_input_size else {}
    image = _random(batch, channels, size or height, size or width)
    return partial(timm.create_model, name, **arguments), None, (image,)


def _torchvision(name: str, size: int | None, batch: int) -> tuple[Callable[[], nn.Module], str | None, Images]:
    module = get_model_builder(name).__module__
    create = partial(get_model_builder(name), weights=None)
    default = 320 if ".detection." in module else 224
    image = _random(batch, 3, size or default, size or default)
    if ".detection." in module:
        return partial(create, weights_backbone=None), BACKBONE, (image,)
    if ".segmentation." in module:
        auxiliary = {} if "lraspp" in name else {"aux_loss": True}
        return partial(create, weights_backbone=None, **auxiliary), None, (image,)
    if ".video." in module:
        return create, None, (_random(1, 3, 16, size or 224, size or 224),)
    if ".optical_flow." in module:
        return create, None, (image, image.flip(-1))
    if ".quantization." in module:
        return partial(create, quantize=False), None, (image,)
    if name in ("googlenet", "inception_v3"):
        return partial(create, init_weights=False), None, (image,)
    fixed: dict[str, dict[str, Any]] = {
        "vision_transformer": {"image_size": size},
        "maxvit": {"input_size": (size, size)},
    }
    arguments = fixed.get(module.rpartition(".")[2], {}) if size else {}
    return partial(create, **arguments), None, (image,)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
