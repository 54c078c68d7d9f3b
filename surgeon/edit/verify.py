"""Prove a coupling graph on the network itself: permuting every group must change nothing, one member less must."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.permute import permute, permute_member
from surgeon.errors import TraceError

TOLERANCE = 1e-9
"""Largest relative difference of float64 outputs that counts as rounding."""


@dataclass(frozen=True)
class Proof:
    """What the permutation of all groups did to the network's outputs.

    Attributes:
        difference: relative L2 distance of the outputs after permuting all groups at once.
        counter_difference: the same after one member of one group was permuted alone; None without groups.
        counter_member: that member's tensor and axis.
        groups: number of groups permuted.
        channels: number of channels in them.
    """

    difference: float
    counter_difference: float | None
    counter_member: tuple[str, int] | None
    groups: int
    channels: int

    @property
    def holds(self) -> bool:
        """True when the outputs stayed within rounding and the counter-proof moved them beyond it."""
        moved = self.counter_difference is None or self.counter_difference > TOLERANCE
        return self.difference < TOLERANCE and moved


def prove(model: nn.Module, graph: CouplingGraph, example: tuple[Any, ...], seed: int = 0) -> Proof:
    """Permute all groups of a randomized float64 copy of the network and compare its outputs.

    Every weight, BatchNorm scale, shift and statistic of the copy is random: a fresh initialization, whose scales are
    all one, would hide errors.

    Args:
        model: the network; it stays as it is.
        graph: its coupling graph.
        example: positional arguments of the forward pass; floating-point tensors are cast to float64.
        seed: seed of weights and permutations.

    Raises:
        TraceError: the randomized network's outputs are not finite, so that they prove nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model).to("cpu", torch.float64).eval()
    randomize(twin, generator)
    arguments = pytree.tree_map(_to_float64, example)
    before = _outputs(twin, arguments)
    if not bool(before.isfinite().all()) or not bool(before.norm() > 0):
        raise TraceError(
            "The randomized network's outputs are zero or not finite, so that a permutation cannot be proven on them.",
            "Try another seed or another input.",
        )
    for group in graph.groups:
        permute(twin, group, torch.randperm(group.size, generator=generator))
    after = _outputs(twin, arguments)
    counter_difference, counter_member = _counter_proof(twin, graph, arguments, after)
    return Proof(
        difference=_distance(before, after),
        counter_difference=counter_difference,
        counter_member=counter_member,
        groups=len(graph.groups),
        channels=sum(group.size for group in graph.groups),
    )


def _counter_proof(
    twin: nn.Module, graph: CouplingGraph, arguments: tuple[Any, ...], reference: torch.Tensor
) -> tuple[float | None, tuple[str, int] | None]:
    """Permute a single weight's rows or columns, and return what that did.

    The choice falls on a weight matrix of the largest group: shifting a vector that a later normalization cancels
    would prove nothing.
    """
    if not graph.groups:
        return None, None

    def weight(group: ChannelGroup) -> bool:
        return len(group.members) > 1 and any(m.role in ("producer", "consumer") for m in group.members)

    candidates = sorted(graph.groups, key=lambda group: (not weight(group), -group.size))
    group = candidates[0]
    member = next((m for m in group.members if m.role in ("producer", "consumer")), group.members[0])
    tensor = twin.state_dict(keep_vars=True)[member.tensor]
    permute_member(tensor, member, torch.arange(group.size).roll(1))
    return _distance(reference, _outputs(twin, arguments)), (member.tensor, member.dim)


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Fill all floating-point parameters and BatchNorm statistics with random values that keep signals of size one.

    Weights are normal with variance 1 / fan-in, vectors named `weight` are uniform in [0.5, 1.5], other vectors normal
    with standard deviation 0.3, running variances uniform in [0.5, 1.5]; other buffers stay.
    """

    def uniform(tensor: torch.Tensor) -> torch.Tensor:
        return torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5

    def normal(tensor: torch.Tensor, deviation: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * deviation

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                parameter.copy_(normal(parameter, max(1, parameter[0].numel()) ** -0.5))
            elif name.endswith("weight"):
                parameter.copy_(uniform(parameter))
            else:
                parameter.copy_(normal(parameter, 0.3))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(uniform(buffer))
            elif name.endswith("running_mean"):
                buffer.copy_(normal(buffer, 0.3))


def _to_float64(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _outputs(model: nn.Module, arguments: tuple[Any, ...]) -> torch.Tensor:
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*arguments))
    tensors = [leaf.flatten().double() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return torch.cat(tensors) if tensors else torch.zeros(0, dtype=torch.float64)


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / first.norm())
