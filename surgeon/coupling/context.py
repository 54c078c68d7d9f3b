"""What a rule may ask and tell while the graph of operations is walked once, in execution order."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from surgeon.coupling.axes import Layout, freeze_all, rigid_layout
from surgeon.coupling.combine import note_shift
from surgeon.coupling.graph import Norm, Role
from surgeon.coupling.ledger import Elements, Ledger

Value = Layout | tuple[Any, ...] | None

Way = Literal["writes", "reads", "depthwise"]
"""How an axis takes a factor up: multiplied, divided, or (a depthwise kernel) both, by a factor each."""


@dataclass
class Weight:
    """The state-dict keys behind a node that a convolution or linear layer has just computed."""

    weight: str
    bias: str | None
    depthwise: bool = False


@dataclass(frozen=True)
class Use:
    """One call of a convolution or linear layer: its module, weight (None if computed), and how it is applied.

    Attributes:
        module: its path.
        weight: state-dict key.
        filters: as `Layer` has it.
        groups: as `Layer` has it.
        convolution: as `Layer` has it.
        positions: output positions for one image.
        computed: number of the weight's entries, where it is computed from parameters; else 0.
    """

    module: str
    weight: str | None
    filters: int
    groups: int
    convolution: bool
    positions: int
    computed: int


@dataclass
class Context:
    """The state of one walk: layouts of the nodes so far, and what is known about parameters.

    Attributes:
        ledger: the facts about elements.
        values: the layout (or tuple of layouts) of every node so far.
        parameters: state-dict key of every node that is a parameter or buffer itself.
        derived: nodes that depend on parameters and constants only, never on the input.
        roles: (elements, role, module) in the order in which operations used parameters.
        module: path of the module whose operation is being interpreted.
        operation: name of that operation.
        scaling: the walk is about factors, which a BatchNorm or a depthwise kernel takes up anew, not about places.
        writers: for every convolution or linear node, its weight.
        norms: for every weight, the BatchNorms right behind it, one for each use that has one.
        uses: every call of a convolution or linear layer, in order.
        batch_norms: every BatchNorm by module.
        takers: the parameter axes that calls take factors up by, and in which ways.
        absorbed: for every parameter node and call, as how many of its arguments the call lets it take factors up.
        reads: for such a walk, the elements by which a depthwise kernel reads its channels, by the kernel's key.
    """

    ledger: Ledger
    values: dict[fx.Node, Value] = field(default_factory=dict)
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    derived: set[fx.Node] = field(default_factory=set)
    roles: list[tuple[Elements, Role, str]] = field(default_factory=list)
    writers: dict[fx.Node, Weight] = field(default_factory=dict)
    norms: dict[str, list[Norm]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    batch_norms: dict[str, Norm] = field(default_factory=dict)
    takers: dict[tuple[str, int], set[Way]] = field(default_factory=dict)
    absorbed: Counter[tuple[fx.Node, fx.Node]] = field(default_factory=Counter)
    reads: dict[str, Elements] = field(default_factory=dict)
    module: str = ""
    operation: str = ""
    scaling: bool = False

    @property
    def bend(self) -> str:
        """The sentence for channels whose factor does not survive the operation that is being interpreted."""
        return f"In {self.module or 'the network itself'}, {self.operation} is not positively homogeneous in them."

    def layout(self, argument: Any) -> Layout:
        """Return the layout of an argument; a number (or nothing) has no dimensions."""
        if isinstance(argument, fx.Node):
            value = self.values.get(argument)
            if isinstance(value, Layout):
                return value
            shape = shape_of(argument)
            return rigid_layout(shape, "an unknown value") if shape is not None else Layout(())
        return Layout(())

    def key(self, argument: Any) -> str | None:
        """Return the state-dict key if the argument is a parameter or buffer itself."""
        return self.parameters.get(argument) if isinstance(argument, fx.Node) else None

    def is_derived(self, argument: Any) -> bool:
        """Return whether the argument depends on parameters and constants only."""
        return not isinstance(argument, fx.Node) or argument in self.derived

    def mark(self, argument: Any, dims: Sequence[int], role: Role) -> None:
        """State the role of a weight's axes; ignored where the argument depends on the input."""
        if not isinstance(argument, fx.Node) or argument not in self.derived:
            return
        layout = self.layout(argument)
        legs = {leg for dim in dims for leg in layout.dims[dim]}
        for block in layout.blocks:
            if legs & set(block.free):
                self.roles.append((block.labels.ravel(), role, self.module))

    def absorb(self, node: fx.Node, arguments: Mapping[str, Any], name: str, ways: Mapping[int, Way]) -> None:
        """State that axes of a parameter take up factors of the channels that a call reads or writes.

        A call on parameters alone computes a weight: what takes its factors up is whoever uses the result, not it.
        """
        argument = arguments.get(name)
        key = self.key(argument)
        if key is None or self.is_derived(arguments["input"]):
            return
        assert isinstance(argument, fx.Node)
        self.absorbed[argument, node] += 1
        for dim, way in ways.items():
            self.takers.setdefault((key, dim), set()).add(way)

    def freeze(self, argument: Any, node: fx.Node, why: str = "") -> Layout:
        """Freeze all channels of an argument and return its layout without them."""
        return freeze_all(self.layout(argument), self.ledger, why or plain(node), f"the result of {op_name(node)}")

    def shifted(self, result: Layout, summand: Layout) -> None:
        """State that the channels of a sum that one summand does not carry cannot take up a factor of their own."""
        note_shift(result, summand, self.ledger, self.bend)

    def inhomogeneous(self, *layouts: Layout) -> None:
        """State that the channels of these layouts go through something that is not positively homogeneous."""
        for layout in layouts:
            for block in layout.blocks:
                self.ledger.note_inhomogeneous(block.labels, self.bend)


Rule = Callable[[Context, fx.Node, dict[str, Any]], Value]


def op_name(node: fx.Node) -> str:
    """Return the operation's name, e.g. `aten.conv2d`."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket)
    return getattr(node.target, "__name__", str(node.target))


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that the operation belongs to ('' for the network itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.split("@")[0]


def reason(node: fx.Node) -> str:
    """Return the sentence for channels that this operation fixes; `{detail}` stands for what they meet."""
    where = module_path(node).replace("{", "").replace("}", "")
    place = f"In {where}, {op_name(node)}" if where else f"The network's own {op_name(node)}"
    return place + " fixes the positions{detail}."


def plain(node: fx.Node) -> str:
    """Return the sentence for channels that this operation fixes by itself."""
    return reason(node).format(detail="")


def shape_of(node: Any) -> tuple[int, ...] | None:
    """Return the shape of a node's value, or None where it is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else None


def result_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value, which must be a tensor."""
    shape = shape_of(node)
    assert shape is not None, f"{node} has no tensor value"
    return shape


def schema_of(node: fx.Node) -> torch.FunctionSchema:
    """Return the schema of an ATen call."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload), f"{node} is no ATen call"
    return target._schema


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    schema = schema_of(node)
    bound = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    bound.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    bound.update(node.kwargs)
    return bound
