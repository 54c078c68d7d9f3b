"""Prove a coupling graph on the network itself: permuting every group must change nothing, one member less must.

Moving a random factor through every channel that can take one up must change nothing either.
"""

import copy
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from surgeon.coupling.example import call_arguments
from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.permute import permute_member
from surgeon.edit.rescale import rescale
from surgeon.errors import TraceError

TOLERANCE = 1e-9
"""Largest relative difference of float64 outputs that counts as rounding."""

NUDGE = 1e-13
LARGEST_GROWTH = 1e4
SMALLEST_GAIN = 1 / 8
SMALLEST_FACTOR = 0.5

LARGEST_CANDIDATES = 8
LAST_CANDIDATES = 4
"""Groups that the counter-proof tries until one moves the outputs: a dead branch cannot, and what an early layer of a
very deep chain does is below rounding at its end."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward pass."""


@dataclass(frozen=True)
class Proof:
    """What the permutation of all groups did to the network's outputs.

    Attributes:
        difference: relative L2 distance of the outputs after permuting all groups at once.
        counter_difference: the same after one member of one group was permuted alone; None without groups.
        counter_member: that member's tensor and axis.
        groups: number of groups permuted.
        channels: number of channels in them.
        rescaled_difference: relative L2 distance of the outputs after rescaling every channel; None without factors.
        factors: number of factors moved.
    """

    difference: float
    counter_difference: float | None
    counter_member: tuple[str, int] | None
    groups: int
    channels: int
    rescaled_difference: float | None = None
    factors: int = 0

    @property
    def largest(self) -> float:
        """The larger of the differences that must be rounding."""
        return max(self.difference, self.rescaled_difference or 0.0)

    @property
    def holds(self) -> bool:
        """True when the outputs stayed within rounding and the counter-proof moved them beyond it."""
        moved = self.counter_difference is None or self.counter_difference > TOLERANCE
        return self.largest < TOLERANCE and moved


def prove(model: nn.Module, graph: CouplingGraph, example: Any, seed: int = 0) -> Proof:
    """Permute all groups of a randomized float64 copy of the network, rescale its channels, and compare its outputs.

    Every weight, BatchNorm scale, shift and statistic of the copy is random: a fresh initialization, whose scales are
    all one, would hide errors.

    Args:
        model: the network; it stays as it is.
        graph: its coupling graph.
        example: what the network is called with, as for `trace`: a tensor, a tuple of positional arguments or a mapping
            of keyword arguments, of any nesting; floating-point tensors are cast to float64.
        seed: seed of weights and permutations.

    Raises:
        TraceError: the randomized network's outputs are not finite, so that they prove nothing.
    """
    call = pytree.tree_map(_to_float64, call_arguments(example))
    gain = 1.0
    proof = _prove(model, graph, call, seed, gain)
    while proof.largest >= TOLERANCE and gain > SMALLEST_GAIN and _is_unstable(model, call, seed, gain):
        gain /= 2
        proof = _prove(model, graph, call, seed, gain)
    return proof


def _prove(model: nn.Module, graph: CouplingGraph, call: Call, seed: int, gain: float) -> Proof:
    generator = torch.Generator().manual_seed(seed)
    twin = _random_twin(model, generator, gain)
    before = _outputs(twin, call)
    if not bool(before.isfinite().all()) or not bool(before.norm() > 0):
        raise TraceError(
            "The randomized network's outputs are zero or not finite, so that a permutation cannot be proven on them.",
            "Try another seed or another input.",
        )
    tensors = twin.state_dict(keep_vars=True)
    for group in graph.groups:
        order = torch.randperm(group.size, generator=generator)
        for member in group.members:
            permute_member(tensors[member.tensor], member, order)
    after = _outputs(twin, call)
    counter_difference, counter_member = _counter_proof(twin, graph, call, after)
    scaling = graph.scaling
    rescale(tensors, scaling, torch.rand(scaling.size, generator=generator, dtype=torch.float64) + SMALLEST_FACTOR)
    return Proof(
        difference=_distance(before, after),
        counter_difference=counter_difference,
        counter_member=counter_member,
        groups=len(graph.groups),
        channels=sum(group.size for group in graph.groups),
        rescaled_difference=_distance(after, _outputs(twin, call)) if scaling.size else None,
        factors=scaling.size,
    )


def _random_twin(model: nn.Module, generator: torch.Generator, gain: float) -> nn.Module:
    twin = copy.deepcopy(model).to("cpu", torch.float64).eval()
    randomize(twin, generator, gain)
    return twin


def _is_unstable(model: nn.Module, call: Call, seed: int, gain: float) -> bool:
    """Return whether the randomized network blows the smallest change of its input up, as products of features do.

    Then a difference is no evidence against the graph, and the proof has to be made with smaller weights.
    """
    twin = _random_twin(model, torch.Generator().manual_seed(seed), gain)

    def nudge(leaf: Any) -> Any:
        return leaf * (1 + NUDGE) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    moved = _distance(_outputs(twin, call), _outputs(twin, pytree.tree_map(nudge, call)))
    return moved > NUDGE * LARGEST_GROWTH


def _counter_proof(
    twin: nn.Module, graph: CouplingGraph, call: Call, reference: torch.Tensor
) -> tuple[float | None, tuple[str, int] | None]:
    """Permute a single weight's rows or columns, and return what that did.

    The choice falls on a weight matrix of the largest group: shifting a vector that a later normalization cancels
    would prove nothing.
    """
    if not graph.groups:
        return None, None

    # Auxiliary heads compute nothing in evaluation mode, so they could not move the outputs.
    running = set(graph.outputs.names)
    tensors = twin.state_dict(keep_vars=True)
    largest: tuple[float, tuple[str, int] | None] = (0.0, None)
    for group in _candidates(graph, running):
        live = [m for m in group.members if m.tensor.rpartition(".")[0] in running] or list(group.members)
        member = next((m for m in live if m.role in ("producer", "consumer")), live[0])
        permute_member(tensors[member.tensor], member, torch.arange(group.size).roll(1))
        moved = _distance(reference, _outputs(twin, call))
        permute_member(tensors[member.tensor], member, torch.arange(group.size).roll(-1))
        largest = max(largest, (moved, (member.tensor, member.dim)), key=lambda found: found[0])
        if moved > TOLERANCE:
            break
    return largest


def _candidates(graph: CouplingGraph, running: Set[str]) -> list[ChannelGroup]:
    """Return groups with weights among the modules that run: the largest (late ones first), then the last ones."""

    def unfit(group: ChannelGroup) -> tuple[bool, bool]:
        weights = len(group.members) > 1 and any(m.role in ("producer", "consumer") for m in group.members)
        return group.name not in running, not weights

    last_first = [*reversed(graph.groups)]
    last_first.sort(key=unfit)
    largest = sorted(last_first, key=lambda group: (*unfit(group), -group.size))
    return list(dict.fromkeys([*largest[:LARGEST_CANDIDATES], *last_first[:LAST_CANDIDATES]]))


def randomize(model: nn.Module, generator: torch.Generator, gain: float = 1.0) -> None:
    """Fill all floating-point parameters and BatchNorm statistics with random values that keep signals of size one.

    Weights are normal with standard deviation `gain` / √fan-in, vectors named `weight` are uniform in [0.5, 1.5], other
    vectors normal with standard deviation 0.3, running variances uniform in [0.5, 1.5]; other buffers stay.
    """

    def uniform(tensor: torch.Tensor) -> torch.Tensor:
        return torch.rand(tensor.shape, generator=generator).double() + 0.5

    def normal(tensor: torch.Tensor, deviation: float) -> torch.Tensor:
        # Drawn in single precision, which takes a third of the time; the values themselves do not matter.
        return torch.randn(tensor.shape, generator=generator).double() * deviation

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                parameter.copy_(normal(parameter, gain * max(1, parameter[0].numel()) ** -0.5))
            elif name.endswith("weight"):
                parameter.copy_(uniform(parameter))
            else:
                parameter.copy_(normal(parameter, 0.3))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(uniform(buffer))
            elif name.endswith("running_mean"):
                buffer.copy_(normal(buffer, 0.3))


class _StayDouble(TorchFunctionMode):
    """Keep networks that cast to float32 inside in float64, so that rounding hides nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, with casts to float32 turned into casts to float64."""
        keywords = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.to:
            args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
            keywords = {key: torch.float64 if value is torch.float32 else value for key, value in keywords.items()}
        return func(*args, **keywords)


def _to_float64(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _outputs(model: nn.Module, call: Call) -> torch.Tensor:
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    arguments, keywords = call
    with torch.no_grad(), _StayDouble():
        leaves = pytree.tree_leaves(model(*arguments, **keywords))
        for buffer, before in buffers:
            # A network that counts its calls must start every one of them alike.
            buffer.copy_(before)
    tensors = [leaf.flatten().double() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return torch.cat(tensors) if tensors else torch.zeros(0, dtype=torch.float64)


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / first.norm())
