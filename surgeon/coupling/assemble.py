"""Write the solved channels down as the nouns of the graph: groups, members, frozen axes, module outputs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from surgeon.coupling.context import Context
from surgeon.coupling.graph import (
    ChannelGroup,
    CouplingGraph,
    FrozenAxis,
    Layer,
    Member,
    Passage,
    Role,
    Scaling,
    Writer,
)
from surgeon.coupling.ledger import AxisKey, Elements, Ledger
from surgeon.coupling.outputs import Handed, Outputs
from surgeon.coupling.rules.contraction import KERNEL
from surgeon.coupling.solve import Solution


def assemble(
    ledger: Ledger,
    solution: Solution,
    contexts: Sequence[Context],
    outputs: Mapping[str, Handed],
    solve_scaling: Callable[[], Scaling],
    solve_passage: Callable[[], Passage],
) -> CouplingGraph:
    """Return the coupling graph of a solved network.

    Args:
        ledger: the facts.
        solution: their solution.
        contexts: what the walks learnt about roles and BatchNorms, in order.
        outputs: what every module hands on, in execution order.
        solve_scaling: works out which factors can be moved.
        solve_passage: works out which layers' channels stay apart.
    """
    channel_index = _channel_indices(ledger, solution)
    roles, names = _roles(ledger, solution, contexts)
    writers = _writers(contexts)
    members: dict[int, list[Member]] = {}
    shown = np.zeros(solution.group.size, dtype=bool)
    for elements in ledger.outputs:
        shown[solution.channel[elements]] = True
    frozen: dict[FrozenAxis, None] = {}
    for key, elements in ledger.axes.items():
        role = roles.get(key, "affine")
        for group, positions in _positions(elements, solution, channel_index):
            rows = None if key.rows is None else slice(*key.rows)
            members.setdefault(group, []).append(Member(key.tensor, key.dim, role, positions, rows))
        for axis in _frozen(key, elements, solution, shown):
            frozen[axis] = None

    def place(group: int) -> tuple[int, int, int]:
        first = members[group][0]
        start = first.rows.start if first.rows is not None else 0
        return names.get(group, (len(names) + group, ""))[0], start, int(first.positions.min())

    order = sorted(members, key=place)
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
                writers[member.tensor]
                for member in written
                if member.role in ("producer", "affine") and member.tensor in writers
            ),
        )
    carried = Outputs(outputs, contexts[0].parameters, solution, channel_index, groups)
    norms = {name: norm for context in contexts for name, norm in context.batch_norms.items()}
    return CouplingGraph(
        tuple(groups.values()), tuple(frozen), carried, _layers(contexts, writers), norms, solve_scaling, solve_passage
    )


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
    keys = sorted(ledger.axes, key=lambda key: int(ledger.axes[key].flat[0]))
    starts = np.array([ledger.axes[key].flat[0] for key in keys] or [0], dtype=np.int64)
    stops = np.array([ledger.axes[key].flat[-1] for key in keys] or [-1], dtype=np.int64)
    roles: dict[AxisKey, Role] = {}
    strong: dict[AxisKey, Role] = {}
    names: dict[int, tuple[int, str]] = {}
    carried: dict[int, tuple[int, str]] = {}
    marks = (mark for context in contexts for mark in context.roles)
    for order, (elements, role, module) in enumerate(marks):
        places = np.maximum(np.searchsorted(starts, elements, side="right") - 1, 0)
        inside = (elements >= starts[places]) & (elements <= stops[places])
        for place in np.unique(places[inside]).tolist():
            # A standardized weight goes through sums and products before it is a convolution's.
            first = (roles if role == "affine" else strong).setdefault(keys[place], role)
            if {first, role} == {"producer", "consumer"}:
                # A weight that is also used transposed writes what it reads, so that no factor cancels.
                solution.homogeneous[solution.channel[ledger.axes[keys[place]]]] = False
        for group in np.unique(solution.group[solution.channel[elements]]).tolist():
            carried.setdefault(group, (order, module))
            if role == "producer":
                names.setdefault(group, (order, module))
    return {**roles, **strong}, {group: names.get(group, first) for group, first in carried.items() if group >= 0}


def _writers(contexts: Sequence[Context]) -> dict[str, Writer]:
    result: dict[str, Writer] = {}
    for context in contexts:
        uses = Counter(weight.weight for weight in context.writers.values())
        for weight in context.writers.values():
            norms = context.norms.get(weight.weight, [])
            # A weight used several times has a BatchNorm only if all uses share it.
            shared = len(norms) == uses[weight.weight] and len(set(norms)) == 1
            result.setdefault(weight.weight, Writer(weight.weight, weight.bias, norms[0] if shared else None))
    return result


def _layers(contexts: Sequence[Context], writers: Mapping[str, Writer]) -> tuple[Layer, ...]:
    """Return every convolution and linear layer once, with the positions of all its uses in evaluation.

    Args:
        contexts: what was learnt in evaluation, and maybe in training.
        writers: by weight.
    """
    layers: dict[str, Layer] = {}
    for number, context in enumerate(contexts):
        for use in context.uses:
            place = use.weight or use.module
            if place not in layers:
                writer = None if use.weight is None else writers.get(use.weight, Writer(use.weight, None, None))
                layers[place] = Layer(use.module, writer, use.filters, use.groups, use.convolution, 0, (use.module,))
            layer = layers[place]
            names = layer.names if use.module in layer.names else (*layer.names, use.module)
            counted = 0 if number else use.positions
            computed = layer.computed + counted * use.computed
            layers[place] = replace(layer, positions=layer.positions + counted, names=names, computed=computed)
    return tuple(layers.values())


def _homogeneous_groups(solution: Solution) -> set[int]:
    bent = set(np.unique(solution.group[~solution.homogeneous]).tolist())
    return set(np.unique(solution.group).tolist()) - bent


def _frozen(key: AxisKey, elements: Elements, solution: Solution, shown: np.ndarray) -> list[FrozenAxis]:
    channels = solution.channel[elements].ravel()
    reasons = solution.reason[channels]
    axes = []
    for index in np.unique(reasons[reasons >= 0]).tolist():
        sentence, output = solution.reasons[index], bool(shown[channels[reasons == index]].any())
        if sentence != KERNEL:
            axes.append(FrozenAxis(key.tensor, key.dim, sentence, output))
    return axes
