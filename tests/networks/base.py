"""The register of tiny networks, and the words in which the channel groups expected of each are written down."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

IMAGE = (2, 3, 8, 8)
NETWORKS: dict[str, "Network"] = {}
Class = TypeVar("Class", bound=type[nn.Module])
Places = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Want:
    """One expected member; `places[c]` are the positions of channel c (None: position c)."""

    tensor: str
    dim: int
    role: str
    places: Places | None
    rows: tuple[int, int] | None


@dataclass(frozen=True)
class WantedGroup:
    """One expected group."""

    size: int
    members: tuple[Want, ...]


@dataclass(frozen=True)
class Network:
    """A tiny network, what goes into it, and the graph worked out by hand.

    Attributes:
        build: makes the network.
        shapes: shapes of the positional inputs.
        groups: the expected groups, in any order.
        frozen: the expected frozen axes, each with words of its reason.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[WantedGroup, ...]
    frozen: dict[tuple[str, int], str]

    def inputs(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Return random inputs."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator) for shape in self.shapes)


ENDS = {("stem.weight", 1): "the network's input", ("head.weight", 0): "output", ("head.bias", 0): "output"}


def network(
    *groups: WantedGroup,
    shapes: Sequence[tuple[int, ...]] = (IMAGE,),
    frozen: dict[tuple[str, int], str] | None = None,
    ends: bool = True,
) -> Callable[[Class], Class]:
    """Register the class below with its expected groups and frozen axes (`ends`: those of `stem` and `head`, too)."""

    def register(cls: Class) -> Class:
        expected = {**(ENDS if ends else {}), **(frozen or {})}
        NETWORKS[cls.__name__] = Network(cls.__name__, cls, tuple(shapes), groups, expected)
        return cls

    return register


def group(size: int, *members: tuple[Want, ...]) -> WantedGroup:
    """Expect a group."""
    return WantedGroup(size, tuple(want for part in members for want in part))


def axis(
    tensor: str,
    dim: int,
    role: str,
    at: Iterable[int | Iterable[int]] | None = None,
    rows: tuple[int, int] | None = None,
) -> tuple[Want, ...]:
    """Expect a member; `at` lists every channel's position, or its positions."""
    places = None if at is None else tuple((p,) if isinstance(p, int) else tuple(sorted(p)) for p in at)
    return (Want(tensor, dim, role, places, rows),)


def out(name: str, at: Iterable[int | Iterable[int]] | None = None, bias: bool = True) -> tuple[Want, ...]:
    """Expect a layer's rows and bias to write the channels."""
    at = None if at is None else list(at)
    return axis(f"{name}.weight", 0, "producer", at) + (axis(f"{name}.bias", 0, "affine", at) if bias else ())


def into(
    name: str, at: Iterable[int | Iterable[int]] | None = None, rows: tuple[int, int] | None = None
) -> tuple[Want, ...]:
    """Expect a layer's columns to read the channels."""
    return axis(f"{name}.weight", 1, "consumer", at, rows)


def vectors(*tensors: str, at: Iterable[int | Iterable[int]] | None = None) -> tuple[Want, ...]:
    """Expect vectors with one number a channel."""
    at = None if at is None else list(at)
    return tuple(want for tensor in tensors for want in axis(tensor, 0, "affine", at))


def scale_shift(name: str, at: Iterable[int | Iterable[int]] | None = None) -> tuple[Want, ...]:
    """Expect a layer's weight and bias to hold one number a channel: a normalization, a depthwise convolution."""
    return vectors(f"{name}.weight", f"{name}.bias", at=at)


def batch_norm(name: str, at: Iterable[int | Iterable[int]] | None = None) -> tuple[Want, ...]:
    """Expect a BatchNorm's scale, shift and statistics."""
    at = None if at is None else list(at)
    statistics = tuple(
        want for key in ("running_mean", "running_var") for want in axis(f"{name}.{key}", 0, "statistic", at)
    )
    return scale_shift(name, at) + statistics


class Net(nn.Module):
    """A first convolution from the image to `width` channels, and a last one from `outgoing` channels to 2."""

    def __init__(self, width: int = 8, outgoing: int | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.head = nn.Conv2d(width if outgoing is None else outgoing, 2, 1)
