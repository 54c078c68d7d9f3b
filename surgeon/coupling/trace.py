"""Write a network down as a graph of ATen operations, and solve which of its channels belong together."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from surgeon.coupling.assemble import assemble
from surgeon.coupling.axes import Layout
from surgeon.coupling.binding import Binding
from surgeon.coupling.example import fake_arguments
from surgeon.coupling.graph import CouplingGraph
from surgeon.coupling.interpret import walk
from surgeon.coupling.lean import lean
from surgeon.coupling.ledger import Ledger
from surgeon.coupling.outputs import Handed
from surgeon.coupling.passage import find_passage
from surgeon.coupling.record import record, record_training, storage_free
from surgeon.coupling.scaling import find_scaling
from surgeon.coupling.solve import solve

UNUSED = "The network's forward pass does not use it."
UNRECORDED = (
    "The network's forward pass does not use it in evaluation mode, and its forward pass in training mode cannot be "
    "recorded, so what it reads is unknown."
)
OVERLAPPING = "It shares memory with another tensor of another shape."
Place = tuple[Any, ...]


@lean()
def trace(model: nn.Module, example_input: Any = None, *, submodule: str | None = None) -> CouplingGraph:
    """Return the coupling graph of a network; the model itself is never changed, run or wrapped.

    No computation takes place: the operations are recorded on tensors without storage, so that networks on the meta
    device and networks larger than the memory are traced alike.

    Args:
        model: the network, in any mode, on any device.
        example_input: what `model` is called with: a tensor, a tuple of positional arguments or a dictionary of
            keyword arguments, of any nesting; only shapes and dtypes matter. Without it a batch of 2 images of the
            size in the model's timm configuration, or of 3 × 224 × 224.
        submodule: path of a submodule to trace instead of the whole network, e.g. the backbone of a detector;
            `example_input` is then the submodule's. Tensors keep their names in the whole network.

    Raises:
        TraceError: the network's forward pass cannot be recorded; the message names the module and the line.
    """
    root = model.get_submodule(submodule) if submodule else model
    prefix = f"{submodule}." if submodule else ""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    arguments, keywords = fake_arguments(root, example_input, mode)
    program = record(storage_free(root, mode).eval(), arguments, keywords, submodule)
    ledger = Ledger()
    bindings = _bindings(program, root, prefix)
    graphs = [(program.graph, bindings)]
    contexts = [walk(program.graph, bindings, ledger)]
    outputs = _module_outputs(program.graph, contexts[0].values)
    unused, why = _unused(bindings), UNUSED
    if unused & {prefix + name for name, _ in root.named_parameters()}:
        # Auxiliary heads run in training only, but they read the same channels and must be edited along.
        twin = storage_free(root, mode, counting=True)
        training = record_training(twin, arguments, keywords, submodule)
        if training is None:
            why = UNRECORDED
        else:
            bindings = _bindings(training, root, prefix)
            graphs.append((training.graph, bindings))
            bends = len(ledger.inhomogeneous)
            contexts.append(walk(training.graph, bindings, ledger))
            # The batch statistics of training would make every BatchNorm look inhomogeneous.
            del ledger.inhomogeneous[bends:]
            unused &= _unused(bindings)
    unsafe = {**dict.fromkeys(unused, why), **dict.fromkeys(_overlapping(root, prefix), OVERLAPPING)}
    for key, elements in ledger.axes.items():
        if key.tensor in unsafe:
            ledger.freeze(elements, unsafe[key.tensor])
    return assemble(
        ledger,
        solve(ledger),
        contexts,
        outputs,
        lambda: find_scaling(graphs, unsafe),
        lambda: find_passage(graphs),
    )


def _bindings(program: ExportedProgram, model: nn.Module, prefix: str) -> dict[fx.Node, Binding]:
    """Return what each placeholder of the program stands for."""
    stored = model.state_dict(keep_vars=True)
    persistent = set(stored)
    # A tied tensor has several names; the first one stands for all of them.
    firsts: dict[Place, str] = {}
    for key, tensor in stored.items():
        firsts.setdefault(_memory(tensor), key)
    tensors = dict(model.named_buffers())
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    result = {}
    for spec in program.graph_signature.input_specs:
        node = nodes[spec.arg.name]
        value = node.meta.get("val")
        shape = tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else None
        target = spec.target or ""
        # Tables of integers (indices) are looked up by position and carry no channels.
        counted = isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()
        stays = spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and target in persistent)
        if stays and not counted:
            result[node] = Binding(
                shape, key=prefix + (firsts[_memory(stored[target])] if target in stored else target)
            )
        elif stays or spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            known = tensors.get(target, program.constants.get(target))
            known = None if isinstance(known, FakeTensor) or not isinstance(known, torch.Tensor) else known
            result[node] = Binding(shape, value=known, constant=prefix + target)
        else:
            result[node] = Binding(shape)
    return result


def _memory(tensor: torch.Tensor) -> Place:
    """Return where a tensor lies: two names of one place are tied."""
    if tensor.is_meta or not tensor.numel() or isinstance(tensor, FakeTensor):
        return (id(tensor),)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _overlapping(model: nn.Module, prefix: str) -> set[str]:
    """Return the tensors that share memory with another one that is not the same view of it."""
    by_storage: dict[int, dict[Place, list[str]]] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        place = _memory(tensor)
        if len(place) > 1:
            by_storage.setdefault(place[0], {}).setdefault(place, []).append(prefix + name)
    return {name for views in by_storage.values() if len(views) > 1 for names in views.values() for name in names}


def _unused(bindings: Mapping[fx.Node, Binding]) -> set[str]:
    used = {binding.key for node, binding in bindings.items() if node.users}
    return {binding.key for binding in bindings.values() if binding.key is not None and binding.key not in used}


def _module_outputs(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> dict[str, Handed]:
    """Return what every module hands to operations outside of it."""
    scopes = {node: _scopes(node) for node in graph.nodes}
    outputs: dict[str, Handed] = {}
    for order, node in enumerate(graph.nodes):
        if node.op != "call_function":
            continue
        leaving = {name for user in node.users for name in scopes[node] if name not in scopes[user]}
        for name in scopes[node]:
            handed = outputs.setdefault(name, Handed())
            if name in leaving and isinstance(values.get(node), Layout):
                handed.layouts.append(values[node])
                handed.nodes.append(node)
                handed.order = order
    return outputs


def _scopes(node: fx.Node) -> dict[str, None]:
    """Return the paths of all modules that an operation belongs to, from the outermost."""
    if node.op != "call_function":
        return {}
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0].split("@")[0] for entry in stack.values()]
    return dict.fromkeys(path for path in paths if path)
