"""Write the solved channels down as the nouns of the graph: groups, members, frozen axes, module outputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from surgeon.coupling.axes import Block, Layout, size_of
from surgeon.coupling.context import Context
from surgeon.coupling.graph import Carried, ChannelGroup, CouplingGraph, FrozenAxis, Member, Norm, Role, Writer
from surgeon.coupling.interpret import OUTPUT
from surgeon.coupling.ledger import AxisKey, Elements, Ledger
from surgeon.coupling.rules.contraction import KERNEL
from surgeon.coupling.solve import Solution
from surgeon.errors import LayerError


def assemble(
    ledger: Ledger,
    solution: Solution,
    contexts: Sequence[Context],
    outputs: Mapping[str, Sequence[Layout]],
) -> CouplingGraph:
    """Return the coupling graph of a solved network.

    Args:
        ledger: the facts.
        solution: their solution.
        contexts: what the walks learnt about roles and BatchNorms, in order.
        outputs: layouts of every module's output tensors, in execution order.
    """
    channel_index = _channel_indices(ledger, solution)
    roles, names = _roles(ledger, solution, contexts)
    writers = _writers(contexts)
    members: dict[int, list[Member]] = {}
    frozen: dict[FrozenAxis, None] = {}
    for key, elements in ledger.axes.items():
        role = roles.get(key, "affine")
        for group, positions in _positions(elements, solution, channel_index):
            rows = None if key.rows is None else slice(*key.rows)
            members.setdefault(group, []).append(Member(key.tensor, key.dim, role, positions, rows))
        for axis in _frozen(key, elements, solution):
            frozen[axis] = None
    order = sorted(members, key=lambda group: names.get(group, (len(names) + group, ""))[0])
    groups: dict[int, ChannelGroup] = {}
    homogeneous = _homogeneous_groups(solution)
    for group in order:
        written = members[group]
        name = names[group][1] if group in names else ""
        groups[group] = ChannelGroup(
            name=name or written[0].tensor.rpartition(".")[0] or written[0].tensor,
            size=written[0].positions.shape[0],
            members=tuple(written),
            homogeneous=group in homogeneous,
            writers=tuple(
                writers[member.tensor] for member in written if member.role == "producer" and member.tensor in writers
            ),
        )
    shown = Outputs(outputs, solution, channel_index, groups)
    return CouplingGraph(tuple(groups.values()), tuple(frozen), shown)


def _channel_indices(ledger: Ledger, solution: Solution) -> np.ndarray:
    """Return every channel's index within its group: the order of the first axis that carries it."""
    index = np.full(solution.group.size, -1, dtype=np.int64)
    sizes: dict[int, int] = {}
    for elements in ledger.axes.values():
        channels = solution.channel[elements]
        channels = channels[(solution.group[channels] >= 0) & (index[channels] < 0)]
        if not channels.size:
            continue
        _, first = np.unique(channels, return_index=True)
        channels = channels[np.sort(first)]
        groups = solution.group[channels]
        for group in np.unique(groups).tolist():
            chosen = channels[groups == group]
            start = sizes.get(group, 0)
            index[chosen] = np.arange(start, start + chosen.size)
            sizes[group] = start + chosen.size
    return index


def _positions(elements: Elements, solution: Solution, index: np.ndarray) -> list[tuple[int, torch.Tensor]]:
    """Return, for every group on an axis, the positions `[size, repeat]` of its channels."""
    channels = solution.channel[elements]
    groups = solution.group[channels]
    result = []
    for group in np.unique(groups[groups >= 0]).tolist():
        places = np.flatnonzero(groups == group)
        order = np.lexsort((solution.rank[elements[places]], index[channels[places]]))
        size = np.unique(channels[places]).size
        result.append((group, torch.from_numpy(places[order].reshape(size, -1))))
    return result


def _roles(
    ledger: Ledger, solution: Solution, contexts: Sequence[Context]
) -> tuple[dict[AxisKey, Role], dict[int, tuple[int, str]]]:
    """Return the role of every axis (its first use) and for every group (order of execution, name)."""
    keys = list(ledger.axes)
    starts = np.array([int(ledger.axes[key].flat[0]) for key in keys] or [0], dtype=np.int64)
    by_start = np.argsort(starts, kind="stable")
    roles: dict[AxisKey, Role] = {}
    names: dict[int, tuple[int, str]] = {}
    carried: dict[int, tuple[int, str]] = {}
    marks = (mark for context in contexts for mark in context.roles)
    for order, (elements, role, module) in enumerate(marks):
        places = np.unique(np.searchsorted(starts[by_start], elements, side="right") - 1)
        for place in places.tolist():
            key = keys[by_start[place]]
            if elements.min() <= ledger.axes[key].max():
                roles.setdefault(key, role)
        for group in np.unique(solution.group[solution.channel[elements]]).tolist():
            carried.setdefault(group, (order, module))
            if role == "producer":
                names.setdefault(group, (order, module))
    return roles, {group: names.get(group, first) for group, first in carried.items() if group >= 0}


def _writers(contexts: Sequence[Context]) -> dict[str, Writer]:
    norms: dict[str, Norm] = {}
    for context in contexts:
        norms.update(context.norms)
    return {
        weight.weight: Writer(weight.weight, weight.bias, norms.get(weight.weight))
        for context in contexts
        for weight in context.writers.values()
    }


def _homogeneous_groups(solution: Solution) -> set[int]:
    bent = set(np.unique(solution.group[~solution.homogeneous]).tolist())
    return set(np.unique(solution.group).tolist()) - bent


def _frozen(key: AxisKey, elements: Elements, solution: Solution) -> list[FrozenAxis]:
    reasons = np.unique(solution.reason[solution.channel[elements]])
    sentences = [solution.reasons[index] for index in reasons.tolist() if index >= 0]
    return [FrozenAxis(key.tensor, key.dim, sentence) for sentence in sentences if sentence != KERNEL]


class Outputs:
    """What every module's output carries; worked out when asked for."""

    def __init__(
        self,
        layouts: Mapping[str, Sequence[Layout]],
        solution: Solution,
        index: np.ndarray,
        groups: Mapping[int, ChannelGroup],
    ) -> None:
        self._layouts = layouts
        self._solution = solution
        self._index = index
        self._groups = groups

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that compute something, in execution order."""
        return tuple(self._layouts)

    def carried(self, name: str) -> tuple[Carried, ...]:
        """Return where the output of module `name` carries which groups."""
        return tuple(
            carried for layout in self._of(name) for block in layout.blocks for carried in self._block(layout, block)
        )

    def reasons(self, name: str) -> tuple[str, ...]:
        """Return why channels of the module's output are frozen."""
        sentences: dict[str, None] = {}
        for layout in self._of(name):
            for block in layout.blocks:
                indices = np.unique(self._solution.reason[self._solution.channel[block.labels.ravel()]])
                sentences.update((self._solution.reasons[i], None) for i in indices.tolist() if i >= 0)
            sentences.update(
                (f"The output holds {leg.meaning}.", None)
                for dim in layout.dims[1:2]
                for leg in dim
                if leg.meaning and not layout.blocks
            )
        return tuple(sentences)

    def _of(self, name: str) -> Sequence[Layout]:
        if name not in self._layouts:
            raise LayerError(
                f"The network has no module '{name}' that computes anything.",
                "Choose one of the modules that `surgeon inspect` lists.",
            )
        return self._layouts[name]

    def _block(self, layout: Layout, block: Block) -> list[Carried]:
        dims = [d for d, legs in enumerate(layout.dims) if set(legs) & set(block.legs)]
        free_dims = [d for d in dims if set(layout.dims[d]) & set(block.free)]
        if len(free_dims) != 1 or dims != free_dims:
            return []
        dim = free_dims[0]
        legs = layout.dims[dim]
        places = np.arange(size_of(legs)).reshape([leg.size for leg in legs])
        others = [axis for axis, leg in enumerate(legs) if leg not in block.legs]
        places = places.transpose([legs.index(leg) for leg in block.legs] + others).reshape(block.labels.size, -1)
        elements = block.labels.ravel()
        channels = self._solution.channel[elements]
        groups = self._solution.group[channels]
        result = []
        for group in np.unique(groups[groups >= 0]).tolist():
            chosen = np.flatnonzero(groups == group)
            order = np.lexsort((self._solution.rank[elements[chosen]], self._index[channels[chosen]]))
            chosen = chosen[order]
            present = np.unique(self._index[channels[chosen]])
            result.append(
                Carried(
                    self._groups[group],
                    torch.from_numpy(present),
                    dim,
                    torch.from_numpy(places[chosen].reshape(present.size, -1)),
                )
            )
        return result


__all__ = ["OUTPUT", "Outputs", "assemble"]
