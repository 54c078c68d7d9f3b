"""Walk the graph of operations once, in execution order, and let each operation's rule say what it does to the axes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from surgeon.coupling.axes import (
    Block,
    Kind,
    Layout,
    Leg,
    freeze_all,
    index_along,
    rigid_layout,
    substitute,
    uniform_dim,
)
from surgeon.coupling.combine import combine
from surgeon.coupling.context import Context, Value, module_path, op_name, plain, reason, shape_of
from surgeon.coupling.ledger import AxisKey, Ledger
from surgeon.coupling.rules import RULES
from surgeon.coupling.rules.pointwise import CURVED, HOMOGENEOUS

OUTPUT = "These channels are the network's output."
INPUT = "the network's input"

VIEWING = frozenset(
    f"aten.{name}"
    for name in """view reshape flatten unflatten squeeze unsqueeze reshape_as view_as permute transpose swapaxes
    swapdims t numpy_T mT movedim expand expand_as broadcast_to slice select unbind split split_with_sizes chunk
    tensor_split alias detach contiguous to type_as unfold lift_fresh_copy dropout feature_dropout""".split()
)
"""Operations whose result may share memory with their argument."""

RULE_FAILURES = (AssertionError, AttributeError, LookupError, StopIteration, TypeError, ValueError)

ELEMENTWISE = frozenset(f"aten.{name}" for name in (*HOMOGENEOUS, *CURVED))


def walk(graph: fx.Graph, bindings: Mapping[fx.Node, "Binding"], ledger: Ledger) -> Context:
    """Interpret a graph of ATen calls and return what was learnt.

    Args:
        graph: the graph, with shapes in `node.meta["val"]`.
        bindings: what each placeholder stands for.
        ledger: receives the facts about elements.
    """
    context = Context(ledger)
    conv_groups = _convolution_groups(graph, bindings)
    aliases = Aliases()
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "placeholder":
            binding = bindings[node]
            context.values[node] = _bound(binding, conv_groups.get(node, 1), ledger)
            if binding.key is not None:
                context.parameters[node] = binding.key
            if binding.key is not None or binding.constant is not None:
                context.derived.add(node)
        elif node.op == "call_function":
            _call(context, node, aliases, order)
        elif node.op == "output":
            _finish(context, node)
    return context


class Aliases:
    """Which nodes may share memory."""

    def __init__(self) -> None:
        self._families: dict[fx.Node, list[fx.Node]] = {}

    def family(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that may share memory with `node`, itself included."""
        return self._families.setdefault(node, [node])

    def join(self, view: fx.Node, source: fx.Node) -> None:
        """State that `view` may share the memory of `source`."""
        family = self.family(source)
        family.append(view)
        self._families[view] = family


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


def _bound(binding: Binding, groups: int, ledger: Ledger) -> Value:
    if binding.shape is None:
        return None
    if binding.key is not None:
        return _parameter(binding.key, binding.shape, groups, ledger)
    if binding.constant is not None:
        return _constant(binding)
    return rigid_layout(binding.shape, INPUT)


def _parameter(key: str, shape: tuple[int, ...], groups: int, ledger: Ledger) -> Layout:
    """Return the layout of a parameter: new elements along every dimension.

    The columns of a grouped convolution's weight are other channels for each group of rows.
    """
    if groups > 1:
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


def _convolution_groups(graph: fx.Graph, bindings: Mapping[fx.Node, Binding]) -> dict[fx.Node, int]:
    """Return the number of groups for every parameter that becomes a grouped (not depthwise) convolution's weight."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op != "call_function" or ".conv" not in op_name(node):
            continue
        arguments = bound_arguments(node)
        groups, weight = arguments.get("groups", 1), arguments["weight"]
        shape = shape_of(weight)
        if groups == 1 or shape is None or shape[1] == 1:
            continue
        transposed = "transpose" in op_name(node)
        if transposed and shape[0] == groups:
            continue
        for source in _sources(weight, shape[0] * shape[1]):
            binding = bindings.get(source)
            if binding is not None and binding.key is not None and (binding.shape or ())[:2] == shape[:2]:
                found.setdefault(source, groups)
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


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    bound.update(node.kwargs)
    return bound


def _call(context: Context, node: fx.Node, aliases: Aliases, order: dict[fx.Node, int]) -> None:
    inputs = node.all_input_nodes
    if inputs and all(argument in context.derived for argument in inputs):
        context.derived.add(node)
    context.module = module_path(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        _call_python(context, node, aliases)
        return
    name = op_name(node)
    family = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
    rule = RULES.get(family)
    if rule is None:
        context.values[node] = _unknown(context, node)
    else:
        try:
            context.values[node] = rule(context, node, bound_arguments(node))
        except RULE_FAILURES:
            # A use of the operation that its rule does not foresee: freezing is always correct.
            context.values[node] = _unknown(context, node)
    if not inputs:
        context.derived.add(node)
    written = _written(node)
    if inputs and not written and (family in VIEWING or _shares_memory(node)):
        aliases.join(node, inputs[0])
    if written == [node.args[0]] and family != name:
        _overwrite(context, node, aliases, order, family)
    else:
        for target in written:
            _spoil(context, node, aliases.family(target))


def _written(node: fx.Node) -> list[fx.Node]:
    """Return the arguments that the operation writes to, by its schema."""
    bound = bound_arguments(node)
    written: list[fx.Node] = []
    for argument in node.target._schema.arguments:  # type: ignore[union-attr]
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = bound.get(argument.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            written += [item for item in values if isinstance(item, fx.Node)]
    return written


def _shares_memory(node: fx.Node) -> bool:
    """Return whether the operation's result may share memory with an argument, by its schema."""
    schema = node.target._schema  # type: ignore[union-attr]
    return any(result.alias_info is not None for result in schema.returns)


def _spoil(context: Context, node: fx.Node, family: Iterable[fx.Node]) -> None:
    """Freeze all tensors that share memory with one that was written to in a way that no rule describes."""
    for view in [*family, node]:
        value = context.values.get(view)
        if isinstance(value, Layout):
            context.values[view] = freeze_all(value, context.ledger, plain(node), "a tensor changed through a view")
            shape = shape_of(view)
            if shape is not None:
                context.values[view] = rigid_layout(shape, "a tensor changed through a view")


def _unknown(context: Context, node: fx.Node) -> Value:
    """Freeze everything that an operation without a rule touches."""
    where = module_path(node)
    why = f"There is no rule for the operation {op_name(node)}" + (f" of '{where}'." if where else ".")
    for argument in node.all_input_nodes:
        if isinstance(context.values.get(argument), Layout):
            context.freeze(argument, node, why)
    return _rigid_value(node.meta.get("val"), f"the result of {op_name(node)}")


def _rigid_value(value: Any, meaning: str) -> Value:
    if isinstance(value, torch.Tensor):
        return rigid_layout(tuple(int(size) for size in value.shape), meaning)
    if isinstance(value, (tuple, list)):
        return tuple(_rigid_value(item, meaning) for item in value)
    return None


def _call_python(context: Context, node: fx.Node, aliases: Aliases) -> None:
    """Handle `getitem` on several results; freeze what other Python functions touch."""
    if op_name(node) == "getitem" and isinstance(node.args[0], fx.Node):
        source = context.values.get(node.args[0])
        if isinstance(source, tuple):
            context.values[node] = source[node.args[1]]  # type: ignore[index]
            aliases.join(node, node.args[0])
            return
    context.values[node] = _unknown(context, node)


def _overwrite(context: Context, node: fx.Node, aliases: Aliases, order: dict[fx.Node, int], family: str) -> None:
    """Let later readers of an overwritten tensor see its new layout; freeze what other views of it may hold."""
    target = node.args[0]
    assert isinstance(target, fx.Node)
    here = order[node]
    others = [view for view in aliases.family(target) if view is not target]
    alive = [view for view in others if any(order[user] > here for user in view.users)]
    before = context.layout(target)
    context.values[target] = context.values[node]
    aliases.join(node, target)
    if not alive:
        return
    alone = family in ELEMENTWISE and len(node.all_input_nodes) == 1
    if alone or _same_freedom(before, context.layout(node)):
        # What is copied in takes the places of what stood there; in the other views they must stay one channel.
        combine(before, context.layout(node), context.ledger, reason(node))
        for view in alive:
            if isinstance(layout := context.values.get(view), Layout):
                context.values[view] = _without_uniform(layout)
        return
    _spoil(context, node, alive)
    context.values[target] = context.values[node]


def _without_uniform(layout: Layout) -> Layout:
    """Return the layout of a tensor of which a part has changed: it need not be the same everywhere any more."""
    fixed = {
        leg: (Leg(leg.size, Kind.RIGID, "a tensor changed through a view"),)
        for dim in layout.dims
        for leg in dim
        if leg.kind is Kind.UNIFORM
    }
    return substitute(layout, fixed, layout.blocks)


def _same_freedom(before: Layout, after: Layout) -> bool:
    """Return whether an overwritten tensor carries the same channels as before, so that its other views hold too."""

    def outline(layout: Layout) -> list[list[tuple[int, Kind]]]:
        return [[(leg.size, leg.kind) for leg in legs] for legs in layout.dims]

    return bool(before.blocks) and len(before.blocks) == len(after.blocks) and outline(before) == outline(after)


def _finish(context: Context, node: fx.Node) -> None:
    for argument in node.all_input_nodes:
        value = context.values.get(argument)
        for layout in value if isinstance(value, tuple) else (value,):
            if isinstance(layout, Layout):
                freeze_all(layout, context.ledger, OUTPUT, "the network's output")
