"""Recurrent layers: the hidden state is one set of channels, once for every gate and once in what follows."""

from typing import Any

from torch import fx

from surgeon.coupling.axes import Kind, Layout, collapse, mix_dims, rigid_layout, size_of
from surgeon.coupling.combine import combine, contract
from surgeon.coupling.concatenate import concatenate
from surgeon.coupling.context import Context, Rule, Value, op_name, plain, reason
from surgeon.coupling.views import reshape

GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
"""Rows of a cell's weights for each channel of its hidden state."""


def recurrent(context: Context, node: fx.Node, arguments: dict[str, Any]) -> Value:
    """A recurrent layer over `[…, I]`: for each layer and direction `[gates·H, I]`, `[gates·H, H]` and biases."""
    states = tuple(rigid_layout(tuple(value.shape), "the state of a recurrent layer") for value in node.meta["val"][1:])
    parameters = list(arguments["params"])
    directions = 2 if arguments["bidirectional"] else 1
    per_cell = 4 if arguments["has_biases"] else 2
    starts = arguments["hx"] if isinstance(arguments["hx"], (list, tuple)) else [arguments["hx"]]
    given = [context.layout(state) for state in starts]
    started = any(leg.kind is not Kind.UNIFORM for state in given for leg in state.dims[-1])
    if (
        started
        or len(parameters) != per_cell * directions * arguments["num_layers"]
        or any(n.users for n in _states(node))
    ):
        for argument in node.all_input_nodes:
            context.freeze(argument, node)
        return (rigid_layout(tuple(node.meta["val"][0].shape), "the output of a recurrent layer"), *states)
    for state in starts:
        context.freeze(state, node)
    sequence = context.layout(arguments["input"])
    time = 1 if arguments["batch_first"] and len(sequence.dims) > 2 else 0
    sequence = mix_dims(sequence, [time], context.ledger, plain(node), "steps in an order")
    context.inhomogeneous(sequence)
    for _ in range(arguments["num_layers"]):
        outputs = []
        for _ in range(directions):
            cell, parameters = parameters[:per_cell], parameters[per_cell:]
            outputs.append(_cell(context, node, sequence, cell))
        sequence = concatenate(outputs, len(sequence.dims) - 1, context.ledger, reason(node), context.bend)
    return (sequence, *states)


def _states(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that take the last states out of the result."""
    return [user for user in node.users if len(user.args) > 1 and user.args[1] in (1, 2)]


def _cell(context: Context, node: fx.Node, sequence: Layout, parameters: list[Any]) -> Layout:
    """Return the hidden states of one layer and direction."""
    read, recur, *biases = parameters
    for weight in (read, recur):
        context.mark(weight, [0], "producer")
        context.mark(weight, [1], "consumer")
    batch = [f"b{dim}" for dim in range(len(sequence.dims) - 1)]
    operands = [(sequence, [*batch, "i"]), (context.layout(read), ["o", "i"])]
    gates = contract(operands, [*batch, "o"], context.ledger, reason(node))
    for bias in biases:
        context.mark(bias, [0], "affine")
        gates = combine(gates, context.layout(bias), context.ledger, reason(node))
    rows = Layout(((),) * len(batch) + (context.layout(recur).dims[0],), context.layout(recur).blocks[:1])
    gates = combine(gates, rows, context.ledger, reason(node))
    hidden = _per_channel(context, node, gates)
    columns = Layout(((),) * len(batch) + (context.layout(recur).dims[1],), context.layout(recur).blocks[1:])
    hidden = combine(hidden, columns, context.ledger, reason(node))
    context.inhomogeneous(hidden)
    return hidden


def _per_channel(context: Context, node: fx.Node, gates: Layout) -> Layout:
    """Return the layout of the hidden state: a channel is all gates at one place."""
    shape = [size_of(legs) for legs in gates.dims]
    count = GATES[op_name(node)]
    split = reshape(gates, [*shape[:-1], count, shape[-1] // count], context.ledger, plain(node))
    outer = split.dims[-2]
    blocks = [collapse(b, [leg for leg in b.legs if leg in outer], context.ledger) for b in split.blocks]
    return Layout((*split.dims[:-2], split.dims[-1]), tuple(blocks))


RULES: dict[str, Rule] = dict.fromkeys(GATES, recurrent)
