"""One hostile file: what it is called, how it is made, and what must come of reading it."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

ARCH = "test_efficientnet"
"""The network of all whole files: timm's smallest."""

CLASSES = 3
Outcome = Literal["refused", "read", "either"]
Command = Literal["load", "inspect", "plan", "record", "tree"]


@dataclass(frozen=True)
class Case:
    """A file to read.

    Attributes:
        kind: what it is an example of.
        name: what tells it from others of its kind.
        make: writes it, and what belongs beside it, under a path in a folder of its own.
        outcome: `either` for damage by chance, which may hit what nobody reads.
        suffix: of the file.
        arch: what `--arch` says; None where the file itself does.
        says: what the error must contain.
        command: what reads it.
        whole: whether what is read must be `whole_state()`, to the bit.
    """

    kind: str
    name: str
    make: Callable[[Path], None]
    outcome: Outcome = "refused"
    suffix: str = ".safetensors"
    arch: str | None = ARCH
    says: str = ""
    command: Command = "load"
    whole: bool = False

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind}: {self.name}"


def writes(content: bytes) -> Callable[[Path], None]:
    """Return what writes these bytes."""

    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def with_config(make: Callable[[Path], None], config: bytes) -> Callable[[Path], None]:
    """Return what writes a file and a config.json beside it."""

    def both(path: Path) -> None:
        make(path)
        path.with_name("config.json").write_bytes(config)

    return both


def saves(content: Any, *, zipped: bool = True, protocol: int = 2) -> Callable[[Path], None]:
    """Return what saves an object with `torch.save`."""

    def make(path: Path) -> None:
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)

    return make


def framed(header: bytes, data: bytes = b"") -> bytes:
    """Return a file in the layout of safetensors: the header's length, the header, the data."""
    return len(header).to_bytes(8, "little") + header + data


def laid_out(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a sound safetensors file."""
    return safetensors.torch.save(dict(tensors), dict(metadata) if metadata is not None else None)


@functools.cache
def whole_state() -> dict[str, Tensor]:
    """Return the tensors of the network that all whole files are for, the same ones every time; not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(timm.create_model(ARCH, num_classes=CLASSES).state_dict())


def check_whole(model: nn.Module) -> None:
    """Hold the tensors of a network against those of all whole files.

    Raises:
        ValueError: they are not the same, to the bit.
    """
    state = model.state_dict()
    others = [name for name, tensor in whole_state().items() if not torch.equal(state[name], tensor)]
    if others:
        raise ValueError(f"read other numbers than those of the file: {', '.join(others)}")


def whole_file(metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a sound file of that network."""
    header, data = whole_parts()
    return framed(text(header if metadata is None else header | {"__metadata__": dict(metadata)}), data)


@functools.cache
def whole_parts() -> tuple[dict[str, Any], bytes]:
    """Return the header of that file, as what it says, and its data."""
    content = laid_out(whole_state())
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def small_state() -> dict[str, Tensor]:
    """Return three small tensors, which are nobody's network."""
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4), "c.count": torch.tensor(7)}


def text(value: Any) -> bytes:
    """Return JSON."""
    return json.dumps(value).encode()


def cut(content: bytes, places: Iterable[int]) -> list[tuple[int, bytes]]:
    """Return what is left of a file that ends early, by where it ends."""
    return [(place, content[:place]) for place in sorted(set(places)) if 0 <= place < len(content)]
