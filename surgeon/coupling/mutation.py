"""Operations that write into a tensor: every other view of its memory sees the change, too."""

from collections.abc import Iterable

from torch import fx

from surgeon.coupling.axes import Kind, Layout, Leg, freeze_all, outline, rigid_layout, substitute
from surgeon.coupling.combine import combine
from surgeon.coupling.context import Context, bound_arguments, plain, reason, schema_of, shape_of
from surgeon.coupling.rules.pointwise import CURVED, HOMOGENEOUS

VIEWING = frozenset(
    f"aten.{name}"
    for name in """view reshape flatten unflatten squeeze unsqueeze reshape_as view_as permute transpose swapaxes
    swapdims t numpy_T mT movedim expand expand_as broadcast_to slice select unbind split split_with_sizes chunk
    tensor_split alias detach contiguous to type_as unfold lift_fresh_copy dropout feature_dropout""".split()
)
"""Operations whose result may share memory with their argument."""

FILLING = frozenset({"aten.fill", "aten.zero"})

ELEMENTWISE = frozenset(f"aten.{name}" for name in (*HOMOGENEOUS, *CURVED))


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


def written_arguments(node: fx.Node) -> list[fx.Node]:
    """Return the arguments that the operation writes to, by its schema."""
    bound = bound_arguments(node)
    written: list[fx.Node] = []
    for argument in schema_of(node).arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = bound.get(argument.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            written += [item for item in values if isinstance(item, fx.Node)]
    return written


def shares_memory(node: fx.Node) -> bool:
    """Return whether the operation's result may share memory with an argument, by its schema."""
    return any(result.alias_info is not None for result in schema_of(node).returns)


def spoil(context: Context, node: fx.Node, family: Iterable[fx.Node]) -> None:
    """Freeze all tensors that share memory with one that was written to in a way that no rule describes."""
    for view in [*family, node]:
        value = context.values.get(view)
        if isinstance(value, Layout):
            context.values[view] = freeze_all(value, context.ledger, plain(node), "a tensor changed through a view")
            shape = shape_of(view)
            if shape is not None:
                context.values[view] = rigid_layout(shape, "a tensor changed through a view")


def overwrite(context: Context, node: fx.Node, aliases: Aliases, order: dict[fx.Node, int], family: str) -> None:
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
    if family in FILLING:
        # The cut that made the view keeps its places apart from the others, and there all hold one number now.
        context.inhomogeneous(before)
        _keep_places(context, alive)
        return
    alone = family in ELEMENTWISE and len(node.all_input_nodes) == 1
    if alone or _same_freedom(before, context.layout(node)):
        # What is copied in takes the places of what stood there; in the other views they must stay one channel.
        combine(before, context.layout(node), context.ledger, reason(node))
        _keep_places(context, alive)
        return
    spoil(context, node, alive)
    context.values[target] = context.values[node]


def _keep_places(context: Context, views: Iterable[fx.Node]) -> None:
    for view in views:
        if isinstance(layout := context.values.get(view), Layout):
            context.values[view] = _without_uniform(layout)


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
    return bool(before.blocks) and len(before.blocks) == len(after.blocks) and outline(before) == outline(after)
