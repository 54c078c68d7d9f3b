"""Try a network at other widths on copies of it, to find out which channels its forward pass does not let change."""

import copy
import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from surgeon.coupling.example import fake_arguments, random_example
from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.coupling.record import UNTRACEABLE, rehearse, storage_free
from surgeon.coupling.trace import trace
from surgeon.edit.families import Family
from surgeon.edit.layers import changed_axes, layer_sizes, owner, sizes_then
from surgeon.edit.plan import Resize, Width
from surgeon.edit.resized import resized_difference
from surgeon.edit.runs import places_now, places_then
from surgeon.edit.verify import TOLERANCE
from surgeon.errors import PlanError, TraceError
from surgeon.structure import Structure, rebuild, structure_of

Suspects = Callable[[Family], bool]
Widths = Callable[[Family], tuple[int, int]]
"""How many channels of a family's groups are kept, and how many are added."""
Failure = Callable[[Sequence[Family]], tuple[str, Suspects]]
"""Why some families cannot have other widths together, empty if they can, and which of them may be the reason."""

ENOUGH = 9
"""Channels to add where it matters what they compute: not all of them are zero by chance."""

DIFFERENT = "At another width of these channels, the network's operations carry other channels together."
MIXED = "They meet in an operation without weights, such as a mean over channels, which depends on how many they are."


def storage_free_twin(model: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters and persistent statistics have no storage; it shares the rest.

    Raises:
        PlanError: a module holds something that cannot be copied.
    """
    persistent = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for buffer in model.buffers():
        bare = id(buffer) in persistent and buffer.is_floating_point()
        # Constants decide which channels are free, so that their values are needed.
        memo[id(buffer)] = torch.empty_like(buffer, device="meta") if bare else buffer
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise PlanError(
            f"The network cannot be copied to try other widths: {error}",
            "Remove what cannot be copied (open files, locks, generators) from its modules.",
        ) from error


def tried(model: nn.Module, graph: CouplingGraph, units: list[Family], example: Any) -> dict[ChannelGroup, str]:
    """Return the groups that a network cannot have at other widths, each with the reason, a sentence.

    Args:
        model: the network; it stays as it is.
        graph: its coupling graph.
        units: families of groups that can be resized as far as their tensors show it.
        example: what the network is called with, as for `trace`.
    """
    trial = _Trial(model, graph, units, example)
    for widths in (trial.wider, trial.narrower):
        # A cut in halves may go well with one channel more, and not with one less.
        units, candidates = [], units
        trial.search(partial(trial.unrecordable, widths), units, candidates)
    alone = graph.passage.apart | graph.passage.gates
    doubtful = [unit for unit in units if not all(_written_by(group, alone) for group in unit)]
    trial.search(trial.mixing, [], doubtful)
    return trial.reasons


class _Trial:
    """Finds out which families a network cannot have at other widths, by recording it at such widths."""

    def __init__(self, model: nn.Module, graph: CouplingGraph, units: Sequence[Family], example: Any) -> None:
        self.reasons: dict[ChannelGroup, str] = {}
        self._model = model
        self._graph = graph
        self._example = example
        self._number = {unit: number for number, unit in enumerate(units)}
        self._failed = False

    def search(self, failure: Failure, good: list[Family], units: list[Family]) -> None:
        """Add the units that can be resized together to `good`, and note the reasons of the others."""
        if not units:
            return
        reason, suspects = failure([*good, *units])
        if not reason:
            good += units
        elif len(units) == 1:
            self.reasons.update(dict.fromkeys(units[0], reason))
        else:
            suspected = [unit for unit in units if suspects(unit)]
            others = [unit for unit in units if unit not in suspected]
            half = len(units) // 2
            for part in (others, suspected) if others and suspected else (units[:half], units[half:]):
                self.search(failure, good, part)

    def unrecordable(self, widths: Widths, units: Sequence[Family]) -> tuple[str, Suspects]:
        """Return why the network cannot be recorded with units of other widths, and which may be the reason."""
        edit = self._edit(widths, units)
        axes = changed_axes(edit, self._model.state_dict(keep_vars=True))
        names = dict.fromkeys(map(owner, axes))
        misfit = next((name for name in names if not layer_sizes(self._model.get_submodule(name), name, axes)), None)
        if misfit is not None:
            reason = f"The layer '{misfit}' cannot have the sizes that it would need."
            return reason, lambda unit: _has_tensor(unit, misfit)
        twin = storage_free_twin(self._model)
        before = structure_of(twin)
        rebuild(twin, Structure({**before.widths, **sizes_then(self._model, axes)}, before.attention))
        try:
            # A forward pass that fails fails sooner when it is only run; mostly none does.
            if self._failed and self._rehearses:
                self._rehearse(twin)
            after = trace(twin, self._example)
        except TraceError as error:
            self._failed = True
            place = re.search("module '([^']+)'", error.problem)
            reason = f"At another width, the forward pass fails: {error.problem.removeprefix(UNTRACEABLE)}"
            return reason, lambda unit: place is not None and _has_tensor(unit, place[1])
        found = {places_now(group) for group in after.groups}
        lost = {group for group in self._graph.groups if places_then(group, axes) not in found}
        return DIFFERENT if lost else "", lambda unit: not lost.isdisjoint(unit)

    def _rehearse(self, twin: nn.Module) -> None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        arguments, keywords = fake_arguments(twin, self._example, mode)
        rehearse(storage_free(twin, mode).eval(), arguments, keywords, mode)

    @cached_property
    def _rehearses(self) -> bool:
        """Whether the network itself runs without storage: some can be recorded, and yet do not."""
        try:
            self._rehearse(storage_free_twin(self._model))
        except TraceError:
            return False
        return True

    def mixing(self, units: Sequence[Family]) -> tuple[str, Suspects]:
        """Return why channels that nothing reads show in the network's outputs."""
        edit = self._edit(lambda unit: (unit[0].size, ENOUGH), units)
        difference, _ = resized_difference(self._model, edit, random_example(self._model, self._example))
        return "" if difference < TOLERANCE else MIXED, lambda unit: False

    def wider(self, unit: Family) -> tuple[int, int]:
        """Return how many channels are kept and added: an odd number, another one for every unit."""
        return unit[0].size, 2 * self._number[unit] + 1

    def narrower(self, unit: Family) -> tuple[int, int]:
        """Return how many channels are kept and added: three at least, so that they are not as many as the images."""
        size = unit[0].size
        return min(size, max(3, size - 1 - self._number[unit] % 3)), 0

    def _edit(self, widths: Widths, units: Sequence[Family]) -> Resize:
        wanted = [(group, *widths(unit)) for unit in units for group in unit]
        return Resize(tuple(Width(group, torch.arange(keep), add) for group, keep, add in wanted), seed=0)


def _written_by(group: ChannelGroup, weights: Collection[str]) -> bool:
    """Return whether every weight that writes a group's channels is one of some, and there is one."""
    return bool(group.writers) and all(writer.weight in weights for writer in group.writers)


def _has_tensor(unit: Family, module: str) -> bool:
    """Return whether a module, or one in it, has a tensor that carries channels of a family."""
    tensors = (member.tensor for group in unit for member in group.members)
    return any(f"{owner(tensor)}.".startswith(f"{module}.") for tensor in tensors)
