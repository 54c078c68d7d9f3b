"""Whether channels pass from the BatchNorm behind their layer to the layers that read them without meeting others.

A channel group says which channels move together, not that they stay apart: the channels under a softmax or a GroupNorm
can be permuted, and yet each depends on all. Here a layer passes only where every operation behind it is known to act
on each channel by itself; whatever is not known is a reason against it.
"""

from collections.abc import Collection, Mapping, Sequence

from torch import fx

from surgeon.coupling.binding import Binding
from surgeon.coupling.context import bound_arguments, module_path, op_name, shape_of
from surgeon.coupling.graph import Passage
from surgeon.coupling.rules.pointwise import CURVED, HOMOGENEOUS
from surgeon.coupling.rules.spatial import RULES as SPATIAL

Recorded = tuple[fx.Graph, Mapping[fx.Node, Binding]]

ELEMENTWISE = frozenset(f"aten.{name}" for name in (*CURVED, *HOMOGENEOUS))
TOGETHER = frozenset({"aten.add", "aten.sub", "aten.mul"})
CONVOLUTIONS = frozenset(
    {"aten.convolution", *(f"aten.{name}{rank}d" for name in ("conv", "conv_transpose") for rank in (1, 2, 3))}
)
POOLS = {
    name: int(next(filter(str.isdigit, name)))
    for name in SPATIAL
    if "upsample" in name or ("pool" in name and "indices" not in name)
}
"""By operation, over how many dimensions of positions."""
VIEWS = frozenset({"aten.flatten", "aten.view", "aten.reshape", "aten.squeeze", "aten.unsqueeze"})
IMAGE = 3
"""Dimensions at least of what has pixels: images, channels, and one or more axes of positions."""


def find_passage(graphs: Sequence[Recorded]) -> Passage:
    """Return which layers' channels stay apart until weights read them.

    Args:
        graphs: the network's operations, in evaluation and maybe in training mode.
    """
    reasons: dict[str, str] = {}
    normed: set[str] = set()
    gates: dict[str, bool] = {}
    passed: dict[str, frozenset[str]] = {}
    opening: set[str | None] = set()
    for graph, bindings in graphs:
        why, gate = _walked(graph)
        closed = _closed(graph, bindings)
        opening |= {_second(norm, bindings) for norm in _norms_before_others(graph)}
        for node in graph.nodes:
            key = _weight(node, bindings)
            if key is None:
                continue
            gates[key] = gates.get(key, True) and gate[node]
            passed[key] = passed.get(key, closed[node]) & closed[node]
            reason = _behind(node, why)
            if reason:
                reasons.setdefault(key, reason)
            else:
                normed.add(key)
    apart = frozenset(normed - reasons.keys())
    return Passage(
        apart,
        frozenset(key for key, always in gates.items() if always),
        {key: passed[key] - opening for key in apart},
        {key: passed[key] & opening for key in apart},
        {key: reason for key, reason in reasons.items() if not gates[key]},
    )


def _weight(node: fx.Node, bindings: Mapping[fx.Node, Binding]) -> str | None:
    """Return the state-dict key of the weight of a convolution or linear layer."""
    if node.op != "call_function" or _family(node) not in CONVOLUTIONS | {"aten.linear"}:
        return None
    return _second(node, bindings)


def _second(node: fx.Node, bindings: Mapping[fx.Node, Binding]) -> str | None:
    """Return the state-dict key of an operation's weight, its second argument."""
    weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    return bindings[weight].key if isinstance(weight, fx.Node) and weight in bindings else None


def _behind(node: fx.Node, why: Mapping[fx.Node, str]) -> str:
    """Return why a layer's channels do not pass through a BatchNorm of their own, and from there apart; '' if so."""
    shape, users = shape_of(node), list(node.users)
    if shape is None or (_family(node) == "aten.linear" and len(shape) >= IMAGE):
        return "its layer writes them for tokens"
    if len(users) != 1 or _family(users[0]) != "aten.batch_norm" or not _reads_first(users[0], node):
        return "something else than a BatchNorm reads what a layer writes"
    return why[users[0]]


def _walked(graph: fx.Graph) -> tuple[dict[fx.Node, str], dict[fx.Node, bool]]:
    """Return for every value why its channels (dimension 1) do not stay apart, and whether it is nothing but a gate."""
    why: dict[fx.Node, str] = {}
    gate: dict[fx.Node, bool] = {}
    scaled = _scaled(graph)
    for node in reversed(graph.nodes):
        found = (_against(user, node, why) for user in node.users)
        why[node] = next(filter(None, found), "")
        gate[node] = bool(node.users) and all(_gates(user, node, why, gate, scaled) for user in node.users)
    return why, gate


def _closed(graph: fx.Graph, bindings: Mapping[fx.Node, Binding]) -> dict[fx.Node, frozenset[str]]:
    """Return for every value the BatchNorm scales on every way from it to the weights that read it."""
    closed: dict[fx.Node, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        ways = [_on_the_way(user, node, bindings, closed) for user in node.users]
        closed[node] = frozenset.intersection(*ways) if ways else frozenset()
    return closed


def _on_the_way(
    user: fx.Node, node: fx.Node, bindings: Mapping[fx.Node, Binding], closed: Mapping[fx.Node, frozenset[str]]
) -> frozenset[str]:
    """Return the BatchNorm scales in one of the operations that use a value, and on every way behind it."""
    if not _passes_on(user, node):
        return frozenset()
    own = _second(user, bindings) if _family(user) == "aten.batch_norm" else None
    return closed[user] | {own} if own is not None else closed[user]


def _norms_before_others(graph: fx.Graph) -> set[fx.Node]:
    """Return the BatchNorms behind which another one stands, on any way to the weights that read the channels."""
    normed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        users = [user for user in node.users if _passes_on(user, node)]
        if any(user in normed or _family(user) == "aten.batch_norm" for user in users):
            normed.add(node)
    return {node for node in normed if _family(node) == "aten.batch_norm"}


def _passes_on(user: fx.Node, node: fx.Node) -> bool:
    """Tell whether an operation acts on each channel of a value by itself and is no layer that reads them together."""
    name, shape = _family(user), shape_of(node)
    if user.op != "call_function" or shape is None or len(shape) < 2:
        return False
    if name in CONVOLUTIONS:
        return _reads_first(user, node) and bound_arguments(user).get("groups") == shape[1]
    return _keeps_apart(user, node, name, shape)


def _scaled(graph: fx.Graph) -> set[fx.Node]:
    """Return the values whose every channel is behind a BatchNorm of its own."""
    scaled: set[fx.Node] = set()
    for node in graph.nodes:
        name, inputs = _family(node), node.all_input_nodes
        behind = [one for one in inputs if one in scaled and _keeps_apart(node, one, name, shape_of(one) or ())]
        enough = 1 if name == "aten.mul" else max(len(inputs), 1)
        if name == "aten.batch_norm" or len(behind) >= enough:
            scaled.add(node)
    return scaled


def _against(user: fx.Node, node: fx.Node, why: Mapping[fx.Node, str]) -> str:
    """Return why channels of a value do not stay apart in one of the operations that use it, or behind it."""
    name = _family(user)
    shape = shape_of(node)
    if user.op == "call_function" and shape is not None and len(shape) > 1:
        if name in CONVOLUTIONS and _reads_first(user, node):
            return ""
        if name == "aten.linear" and _reads_first(user, node) and len(shape) < IMAGE:
            return ""
        if _keeps_apart(user, node, name, shape):
            return why[user]
    place = module_path(user)
    return f"{name} {f'in {place} ' if place else ''}may let them meet without weights in between"


def _keeps_apart(user: fx.Node, node: fx.Node, name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether an operation acts on each channel (dimension 1) by itself, and leaves it there."""
    result = shape_of(user)
    if result is None or result[:1] != shape[:1]:
        return False
    alone = user.all_input_nodes == [node]
    if name in ELEMENTWISE:
        return alone and result == shape
    if name == "aten.batch_norm":
        return _reads_first(user, node)
    if name in TOGETHER:
        return _alike(user, node, shape)
    if name in POOLS:
        return alone and len(shape) == len(result) == POOLS[name] + 2
    if name == "aten.mean":
        dims = bound_arguments(user).get("dim")
        return alone and isinstance(dims, Collection) and bool(dims) and all(dim % len(shape) > 1 for dim in dims)
    if name in VIEWS:
        pixels = shape[2:]
        # All pixels of a channel side by side, or one more or one less dimension of size 1.
        return alone and (len(result) == 2 or (result[1:2] == shape[1:2] and {*pixels, *result[2:]} <= {1}))
    if name == "aten.cat":
        dim = bound_arguments(user)["dim"]
        return dim % len(shape) == 1
    return False


def _alike(user: fx.Node, node: fx.Node, shape: tuple[int, ...]) -> bool:
    """Tell whether all operands have the same channels in the same dimension, and none is changed unseen."""
    for other in user.all_input_nodes:
        sizes = shape_of(other)
        if sizes is None or len(sizes) != len(shape) or sizes[:2] != shape[:2]:
            return False
    first = user.args[0]
    return not (op_name(user).endswith("_") and first is not node) or _sole(first)


def _sole(value: object) -> bool:
    """Tell whether what is written into a value shows nowhere but in the result."""
    while isinstance(value, fx.Node):
        if len(value.users) != 1:
            return False
        if not (op_name(value).endswith("_") or _family(value) in VIEWS):
            return True
        value = value.args[0]
    return False


def _gates(
    user: fx.Node,
    node: fx.Node,
    why: Mapping[fx.Node, str],
    gate: Mapping[fx.Node, bool],
    scaled: Collection[fx.Node],
) -> bool:
    """Tell whether a user multiplies other channels by a value, maybe after a function of each element."""
    name, shape = _family(user), shape_of(node)
    if user.op != "call_function" or shape is None or len(shape) < 2:
        return False
    if name == "aten.mul" and len(user.all_input_nodes) == 2:
        others = [other for other in user.all_input_nodes if other is not node]
        return _alike(user, node, shape) and not why[user] and all(other in scaled for other in others)
    return name in ELEMENTWISE | VIEWS and _keeps_apart(user, node, name, shape) and gate[user]


def _reads_first(user: fx.Node, node: fx.Node) -> bool:
    """Tell whether a value is the operation's first argument, and no other."""
    rest = [argument for argument in (*user.args[1:], *user.kwargs.values()) if isinstance(argument, fx.Node)]
    return bool(user.args) and user.args[0] is node and node not in rest


def _family(node: fx.Node) -> str:
    """Return the operation's name, without the mark of one that works in place."""
    return op_name(node).rstrip("_")
