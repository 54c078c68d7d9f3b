"""Walk the graph of operations once, in execution order, and let each operation's rule say what it does to the axes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from surgeon.coupling.axes import Layout, freeze_all, rigid_layout
from surgeon.coupling.binding import Binding, bound_layout, convolution_groups
from surgeon.coupling.context import Context, Value, bound_arguments, module_path, op_name
from surgeon.coupling.ledger import Ledger
from surgeon.coupling.mutation import VIEWING, Aliases, overwrite, shares_memory, spoil, written_arguments
from surgeon.coupling.rules import RULES
from surgeon.coupling.shown import note_output

OUTPUT = "These channels are the network's output."

RULE_FAILURES = (AssertionError, AttributeError, LookupError, StopIteration, TypeError, ValueError)


def walk(graph: fx.Graph, bindings: Mapping[fx.Node, Binding], ledger: Ledger, *, scaling: bool = False) -> Context:
    """Interpret a graph of ATen calls and return what was learnt.

    Args:
        graph: the graph, with shapes in `node.meta["val"]`.
        bindings: what each placeholder stands for.
        ledger: receives the facts about elements.
        scaling: ask about factors instead of places; see `scaling.py`.
    """
    context = Context(ledger, scaling=scaling)
    groupings = convolution_groups(graph, bindings)
    aliases = Aliases()
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "placeholder":
            binding = bindings[node]
            context.values[node] = bound_layout(binding, groupings.get(node), ledger)
            if binding.key is not None:
                context.parameters[node] = binding.key
            if binding.key is not None or binding.constant is not None:
                context.derived.add(node)
        elif node.op == "call_function":
            _call(context, node, aliases, order)
        elif node.op == "output":
            _finish(context, node)
    return context


def _call(context: Context, node: fx.Node, aliases: Aliases, order: dict[fx.Node, int]) -> None:
    inputs = node.all_input_nodes
    if inputs and all(argument in context.derived for argument in inputs):
        context.derived.add(node)
    context.module, context.operation = module_path(node), op_name(node)
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
    written = written_arguments(node)
    if inputs and not written and (family in VIEWING or shares_memory(node)):
        aliases.join(node, inputs[0])
    if written == [node.args[0]] and family != name:
        overwrite(context, node, aliases, order, family)
    else:
        for target in written:
            spoil(context, node, aliases.family(target))


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
            index = node.args[1]
            assert isinstance(index, int)
            context.values[node] = source[index]
            aliases.join(node, node.args[0])
            return
    context.values[node] = _unknown(context, node)


def _finish(context: Context, node: fx.Node) -> None:
    note_output(context, node)
    for argument in node.all_input_nodes:
        value = context.values.get(argument)
        for layout in value if isinstance(value, tuple) else (value,):
            if isinstance(layout, Layout):
                freeze_all(layout, context.ledger, OUTPUT, "the network's output")
