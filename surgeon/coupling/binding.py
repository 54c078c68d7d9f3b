"""What the graph's placeholders stand for: parameters get new elements along their axes, inputs and constants none."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from surgeon.coupling.axes import Block, Kind, Layout, Leg, index_along, rigid_layout, uniform_dim
from surgeon.coupling.context import Value, bound_arguments, op_name, shape_of
from surgeon.coupling.ledger import AxisKey, Ledger

INPUT = "the network's input"


@dataclass(frozen=True)
class Binding:
    """What a placeholder stands for: a parameter or buffer, a constant, or (neither) an input.

    Attributes:
        shape: the tensor's shape, or None for something that is no tensor.
        key: state-dict key of a parameter or persistent buffer.
        constant: name of a tensor that the checkpoint does not hold.
        value: that tensor, where it is known.
    """

    shape: tuple[int, ...] | None
    key: str | None = None
    constant: str | None = None
    value: torch.Tensor | None = None


@dataclass(frozen=True)
class Grouping:
    """How a grouped convolution uses a weight.

    Attributes:
        groups: number of groups.
        spread: True where every channel that comes in has several filters of its own (transposed depthwise).
    """

    groups: int
    spread: bool = False


def bound_layout(binding: Binding, grouping: Grouping | None, ledger: Ledger) -> Value:
    """Return the layout of a placeholder, None for something that is no tensor.

    Args:
        binding: what it stands for.
        grouping: how a grouped convolution uses it, if one does.
        ledger: receives the elements of a parameter's axes.
    """
    if binding.shape is None:
        return None
    if binding.key is not None:
        return _parameter(binding.key, binding.shape, grouping, ledger)
    if binding.constant is not None:
        return _constant(binding)
    return rigid_layout(binding.shape, INPUT)


def _parameter(key: str, shape: tuple[int, ...], grouping: Grouping | None, ledger: Ledger) -> Layout:
    """Return the layout of a parameter: new elements along every dimension.

    The columns of a grouped convolution's weight are other channels for each group of rows.
    """
    if grouping is not None and grouping.spread:
        return _spread(key, shape, ledger)
    if grouping is not None:
        groups = grouping.groups
        outer, inner = shape[0] // groups, shape[1]
        group = Leg(groups, Kind.RIGID, "the groups of a convolution")
        rows = Leg(outer, Kind.FREE)
        columns = Leg(inner, Kind.FREE)
        row_elements = ledger.axis(AxisKey(key, 0), shape[0]).reshape(groups, outer)
        column_elements = np.stack(
            [ledger.axis(AxisKey(key, 1, (g * outer, (g + 1) * outer)), inner) for g in range(groups)]
        )
        blocks = [Block((group, columns), column_elements)]
        row_block = Block((group, rows), row_elements) if outer > 1 else Block((group,), row_elements[:, 0])
        ledger.separate(row_block.labels, index_along(row_block, [group]))
        if outer > 1:
            blocks.insert(0, row_block)
        else:
            ledger.freeze(row_elements, "Each group of the convolution has one filter, whose place its inputs fix.")
        rest = _axes(key, shape, 2, ledger)
        first = (group, rows) if outer > 1 else (group,)
        return Layout((first, (columns,), *rest.dims), (*blocks, *rest.blocks))
    return _axes(key, shape, 0, ledger)


def _spread(key: str, shape: tuple[int, ...], ledger: Ledger) -> Layout:
    """Return the layout of a transposed depthwise weight: a channel takes all its filters along, in their order."""
    rows = Leg(shape[0], Kind.FREE)
    ledger.freeze(ledger.axis(AxisKey(key, 1), shape[1]), "The filters of one channel keep their order.")
    filters = Leg(shape[1], Kind.RIGID, "the filters of one channel")
    rest = _axes(key, shape, 2, ledger)
    row_block = Block((rows,), ledger.axis(AxisKey(key, 0), shape[0]))
    return Layout(((rows,), (filters,), *rest.dims), (row_block, *rest.blocks))


def _axes(key: str, shape: tuple[int, ...], start: int, ledger: Ledger) -> Layout:
    dims: list[tuple[Leg, ...]] = []
    blocks = []
    for dim in range(start, len(shape)):
        if shape[dim] <= 1:
            dims.append(() if shape[dim] else (Leg(0, Kind.RIGID, "an empty tensor"),))
            continue
        leg = Leg(shape[dim], Kind.FREE)
        dims.append((leg,))
        blocks.append(Block((leg,), ledger.axis(AxisKey(key, dim), shape[dim])))
    return Layout(tuple(dims), tuple(blocks))


def _constant(binding: Binding) -> Layout:
    """Return the layout of a fixed tensor: uniform along the dimensions in which its values do not change."""
    assert binding.shape is not None
    meaning = f"a constant that differs between positions ({binding.constant})"
    value = binding.value
    if value is None or value.is_meta or value.numel() == 0:
        return rigid_layout(binding.shape, meaning)
    dims: list[tuple[Leg, ...]] = []
    for dim, size in enumerate(binding.shape):
        if size == 1:
            dims.append(())
        elif torch.equal(value, value.select(dim, 0).unsqueeze(dim).expand_as(value)):
            dims.append(uniform_dim(size))
        else:
            dims.append((Leg(size, Kind.RIGID, meaning),))
    return Layout(tuple(dims))


def convolution_groups(graph: fx.Graph, bindings: Mapping[fx.Node, Binding]) -> dict[fx.Node, Grouping]:
    """Return the groups of every parameter that becomes a grouped (not a plain depthwise) convolution's weight."""
    found: dict[fx.Node, Grouping] = {}
    for node in graph.nodes:
        if node.op != "call_function" or ".conv" not in op_name(node):
            continue
        arguments = bound_arguments(node)
        groups, weight = arguments.get("groups", 1), arguments["weight"]
        shape = shape_of(weight)
        if groups == 1 or shape is None or shape[1] == 1:
            continue
        spread = "transpose" in op_name(node) and shape[0] == groups
        for source in _sources(weight, shape[0] * shape[1]):
            binding = bindings.get(source)
            if binding is not None and binding.key is not None and (binding.shape or ())[:2] == shape[:2]:
                found.setdefault(source, Grouping(groups, spread))
    return found


def _sources(node: fx.Node, least: int) -> set[fx.Node]:
    """Return the placeholders that a weight was computed from, if large enough to be one."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        shape = shape_of(current)
        size = 1
        for length in shape or ():
            size *= length
        if size >= least:
            stack.extend(current.all_input_nodes)
    return {current for current in seen if current.op == "placeholder"}
