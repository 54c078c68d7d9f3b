"""The nouns of the coupling graph: which tensor axes carry the same channels, and which are left alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import torch

Role = Literal["producer", "affine", "statistic", "consumer"]


@dataclass(frozen=True, eq=False)
class Member:
    """One tensor axis that carries the channels of a group.

    Attributes:
        tensor: state-dict key.
        dim: axis of that tensor.
        role: `producer` (rows of weights that write the channels), `affine` (one number or kernel a channel: bias,
            scale, shift, depthwise kernel), `statistic` (a buffer), `consumer` (columns of weights that read them).
        positions: LongTensor `[size, repeat]`; row c holds every position along `dim` that belongs to channel c.
        rows: None, or the `(start, stop)` slice of axis 0 concerned: a grouped convolution reads each group by its own
            rows (and a grouped transposed convolution writes it).
    """

    tensor: str
    dim: int
    role: Role
    positions: torch.Tensor
    rows: slice | None = None


@dataclass(frozen=True)
class Norm:
    """A BatchNorm right behind a convolution: state-dict keys (None where it has no scale or shift) and its ε."""

    weight: str | None
    bias: str | None
    running_mean: str
    running_var: str
    eps: float


@dataclass(frozen=True)
class Writer:
    """A weight that writes channels: state-dict keys of the weight, of its bias, and the BatchNorm right behind it."""

    weight: str
    bias: str | None
    norm: Norm | None


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer as the forward pass uses it, whether its channels are free or not.

    Attributes:
        name: the module that computes it; of several that share its weight, the first.
        writer: its weight, bias, and the BatchNorm right behind; None where the weight is computed from other tensors.
        filters: axis of the weight that counts the filters: 0, or 1 for a transposed convolution.
        groups: number of groups of a convolution, 1 for a linear layer.
        convolution: it has a kernel, maybe of size 1.
        positions: output positions for one image (`h · w` of an image, tokens of a sequence), summed over all uses in
            evaluation: auxiliary heads have none.
        names: every module that computes it, in the order of execution.
        computed: where the weight is computed from other tensors, the multiplications with it for one image.
    """

    name: str
    writer: Writer | None
    filters: int
    groups: int
    convolution: bool
    positions: int
    names: tuple[str, ...] = ()
    computed: int = 0

    def __post_init__(self) -> None:
        if not self.names:
            object.__setattr__(self, "names", (self.name,))


@dataclass(frozen=True, eq=False)
class Part:
    """Positions of one tensor axis that take up the factors of a scaling.

    Attributes:
        tensor: state-dict key.
        dim: axis.
        rows: None, or the slice of axis 0 concerned.
        scale: LongTensor, for every position along `dim` the number of the factor that it takes up, or -1.
        divided: the positions read the channels, and are divided by the factor; otherwise they write them.
    """

    tensor: str
    dim: int
    rows: slice | None
    scale: torch.Tensor
    divided: bool


@dataclass(frozen=True, eq=False)
class Scaling:
    """Which positive factors can be moved from the tensors that write channels into those that read them.

    Attributes:
        size: number of independent factors.
        parts: every tensor axis that takes factors up.
        reasons: for every tensor that writes channels (state-dict key) of which some have no factor, why, and for how
            many of its channels each reason holds.
    """

    size: int
    parts: tuple[Part, ...]
    reasons: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False)
class Passage:
    """Which layers' channels stay apart, from the BatchNorm right behind the layer to the weights that read them.

    Attributes:
        apart: state-dict keys of the layers' weights.
        gates: weights of layers whose channels do nothing but multiply those of others, one each (squeeze-excitation).
        closing: by weight of a layer in `apart`, the BatchNorm scales that everything it writes passes through before
            weights of another layer read it, and behind which there is no other; depthwise layers pass on what they
            read.
        opening: the other scales that it passes through: a BatchNorm behind them makes large again what they make
            small.
        reasons: for every other weight, why that is not known, a clause.
    """

    apart: frozenset[str] = frozenset()
    gates: frozenset[str] = frozenset()
    closing: Mapping[str, frozenset[str]] = field(default_factory=dict)
    opening: Mapping[str, frozenset[str]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """One set of channels and every tensor axis that carries them.

    Any permutation of the channels, applied to all members, leaves the network's function unchanged.

    Attributes:
        name: the module whose output first carries the channels, e.g. `layer4.0.conv3`.
        size: number of channels.
        members: every (tensor, axis) that carries them.
        homogeneous: True when every operation between producers and consumers is positively homogeneous, so that a
            positive factor on a channel's producers can be divided out of its consumers.
        writers: the weights among the producers with the bias and BatchNorm that belong to each.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    homogeneous: bool
    writers: tuple[Writer, ...] = ()


@dataclass(frozen=True)
class FrozenAxis:
    """A tensor axis (or some positions of it) that no edit may touch.

    Attributes:
        tensor: state-dict key.
        dim: axis.
        reason: a sentence.
        output: some of these positions are the network's output, whatever froze them first.
    """

    tensor: str
    dim: int
    reason: str
    output: bool = False


@dataclass(frozen=True, eq=False)
class Carried:
    """Where a module's output tensor carries a group.

    Attributes:
        group: the channel group.
        channels: LongTensor `[n]`, which of the group's channels the output carries.
        dim: dimension of the output tensor.
        positions: LongTensor `[n, repeat]`, positions along `dim` for each of `channels`.
    """

    group: ChannelGroup
    channels: torch.Tensor
    dim: int
    positions: torch.Tensor


@dataclass(frozen=True, eq=False)
class CouplingGraph:
    """The free channel groups of a network, and what is frozen and why.

    Attributes:
        groups: free groups in execution order.
        frozen: axes that are left alone, with reasons.
        outputs: what each module's output carries.
        layers: every convolution and linear layer, free or not, in execution order.
        norms: every BatchNorm by module name, in execution order.
        solve_scaling: works `scaling` out.
        solve_passage: works `passage` out.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenAxis, ...]
    outputs: "ModuleOutputs" = field(repr=False)
    layers: tuple[Layer, ...] = ()
    norms: Mapping[str, Norm] = field(default_factory=dict)
    solve_scaling: Callable[[], Scaling] = field(default=lambda: Scaling(0, (), {}), repr=False)
    solve_passage: Callable[[], Passage] = field(default=Passage, repr=False)

    @cached_property
    def scaling(self) -> Scaling:
        """Which factors can be moved from one tensor into another; worked out when first asked for."""
        return self.solve_scaling()

    @cached_property
    def passage(self) -> Passage:
        """Which layers' channels stay apart until weights read them; worked out when first asked for."""
        return self.solve_passage()

    def at(self, name: str) -> tuple[ChannelGroup, ...]:
        """Return the groups carried by a module's output, e.g. `graph.at("layer4")`: a stage, a block or a layer.

        Raises:
            LayerError: no module of this name computes anything.
        """
        return tuple(dict.fromkeys(carried.group for carried in self.outputs.carried(name)))


class ModuleOutputs(Protocol):
    """What the modules' outputs carry."""

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that compute something, in execution order."""

    def carried(self, name: str) -> tuple[Carried, ...]:
        """Return where the output of module `name` carries which groups.

        Raises:
            LayerError: no module of this name computes anything.
        """

    def reasons(self, name: str) -> tuple[str, ...]:
        """Return why channels of the module's output are frozen.

        Raises:
            LayerError: no module of this name computes anything.
        """

    def tensors_before(self, name: str) -> frozenset[str]:
        """Return the state-dict keys of everything that the module's output depends on.

        Raises:
            LayerError: no module of this name computes anything.
        """

    def order(self, name: str) -> int:
        """Return when the module hands its last tensor on, counted in operations."""

    def tensors(self, name: str) -> int:
        """Return how many tensors the module hands to operations outside of it."""

    def deepest(self) -> str | None:
        """Return the outermost module whose output carries free channels over an image, as late as possible."""
