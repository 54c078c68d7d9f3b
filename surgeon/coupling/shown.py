"""Which channels the network's output shows, even where an operation on the way has fixed their places already."""

from torch import fx

from surgeon.coupling.axes import Layout
from surgeon.coupling.context import Context, op_name
from surgeon.coupling.rules import attention, pointwise, reduction, shape, spatial

SHOWING = frozenset({
    "getitem",
    *pointwise.RULES,
    *(name for name in attention.RULES if "softmax" in name),
    *(f"aten.{name}" for name in ("flip", "roll", "cumsum", "cumprod", "logcumsumexp")),
    *(f"aten.{name}" for name in ("index", "index_select", "gather", "argmax", "argmin", "argsort", "sort", "topk")),
})  # fmt: skip
"""Operations whose result tells the positions of what goes in apart: the class of each score, or where it stands."""

HANDING = frozenset({*shape.RULES, *reduction.RULES, *spatial.RULES}) - SHOWING
"""Operations that hand positions on that were fixed before."""


def note_output(context: Context, output: fx.Node) -> None:
    """State which elements the network's output shows: those that it carries, and those fixed right before it."""
    open_nodes = list(output.all_input_nodes)
    seen: set[fx.Node] = set()
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        for layout in _layouts(context, node):
            for block in layout.blocks:
                context.ledger.note_output(block.labels)
        open_nodes += _behind(context, node)


def _behind(context: Context, node: fx.Node) -> list[fx.Node]:
    """Return the arguments whose positions the node's value shows."""
    if node.op != "call_function":
        return []
    name = op_name(node).rstrip("_")
    if name == "getitem" and isinstance(node.args[0], fx.Node) and node.args[1] == 1:
        # Where an extreme or a sorted value stood is a position itself.
        return [node.args[0], *node.args[0].all_input_nodes] if _is_extreme(node.args[0]) else [node.args[0]]
    if name in SHOWING:
        return node.all_input_nodes
    return [a for a in node.all_input_nodes if name in HANDING and not any(la.blocks for la in _layouts(context, a))]


def _is_extreme(node: fx.Node) -> bool:
    return op_name(node) in ("aten.max", "aten.min")


def _layouts(context: Context, node: fx.Node) -> list[Layout]:
    value = context.values.get(node)
    return [layout for layout in (value if isinstance(value, tuple) else (value,)) if isinstance(layout, Layout)]
