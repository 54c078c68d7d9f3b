"""Write down what a network does: its forward pass as a graph of ATen operations, run on a copy without storage."""

import contextlib
import copy
import logging
import operator
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm

from surgeon.coupling.context import op_name
from surgeon.errors import TraceError

UNTRACEABLE = "The network cannot be traced: "


def storage_free(model: nn.Module, mode: FakeTensorMode, *, counting: bool = False) -> nn.Module:
    """Return a copy of the model whose parameters and buffers have no storage, without the user's hooks.

    Args:
        model: the network.
        mode: the mode that makes the tensors.
        counting: keep the BatchNorms' counters of batches, that only a forward pass in training mode looks at.

    Raises:
        TraceError: a module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    counters = (
        set()
        if counting
        else {id(module.num_batches_tracked) for module in model.modules() if isinstance(module, _BatchNorm)}
    )
    with mode:
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(
                torch.empty(parameter.shape, dtype=parameter.dtype), requires_grad=parameter.requires_grad
            )
        for buffer in model.buffers():
            counter = id(buffer) in counters
            memo[id(buffer)] = None if counter else torch.empty(buffer.shape, dtype=buffer.dtype)
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and id(value) not in memo and not value.is_meta:
                memo[id(value)] = value.detach().to("cpu", copy=True)
    try:
        twin = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise TraceError(
            f"The network cannot be copied for tracing: {error}",
            "Remove what cannot be copied (open files, locks, generators) from its modules.",
        ) from error
    for module in twin.modules():
        module._forward_hooks.clear()
        module._backward_hooks.clear()
        # Weight and spectral normalization of torch.nn.utils compute the weight in a hook; the user's own hooks go.
        for key, hook in list(module._forward_pre_hooks.items()):
            if not type(hook).__module__.startswith("torch.nn.utils"):
                del module._forward_pre_hooks[key]
    return twin


def record(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], submodule: str | None
) -> ExportedProgram:
    """Return the graph of a network's forward pass, with every recorded region written out.

    Args:
        model: the storage-free copy, in the mode to record.
        arguments: positional arguments of the forward pass, tensors without storage.
        keywords: its keyword arguments.
        submodule: path of `model` in the whole network, or None where it is the whole.

    Raises:
        TraceError: the forward pass cannot be recorded; the message names the module and the line.
    """
    try:
        with warnings.catch_warnings(), _quiet("torch._subclasses.fake_tensor"):
            # Recurrent layers assign their flattened weights while they run; on the storage-free copy that is harmless.
            warnings.filterwarnings("ignore", message="The tensor attribute")
            program = torch.export.export(model, arguments, keywords, strict=False)
    except Exception as error:  # The model's own forward runs here and may raise anything.
        raise _untraceable(model, error, submodule) from error
    _inline(program.graph, program.graph_module)
    if submodule:
        _rename(program.graph, submodule)
    return program


def rehearse(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], mode: FakeTensorMode) -> None:
    """Run a network's forward pass without recording it, in a tenth of the time.

    Args:
        model: the storage-free copy.
        arguments: positional arguments of the forward pass, tensors without storage.
        keywords: its keyword arguments.
        mode: the mode that made the tensors.

    Raises:
        TraceError: the forward pass fails; the message is that of `record`.
    """
    try:
        with mode, torch.no_grad(), warnings.catch_warnings(), _quiet("torch._subclasses.fake_tensor"):
            warnings.filterwarnings("ignore", message="The tensor attribute")
            model(*arguments, **keywords)
    except Exception as error:  # The model's own forward runs here and may raise anything.
        raise _untraceable(model, error, None) from error


def _untraceable(model: nn.Module, error: Exception, submodule: str | None) -> TraceError:
    return TraceError(
        f"{UNTRACEABLE}{_first_line(error)} ({_place(model, error, submodule)}).",
        "Pass an example_input that the network accepts, or trace a submodule whose shapes do not depend on data.",
    )


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from printing the stack of an error that is about to be told in one sentence."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _rename(graph: fx.Graph, submodule: str) -> None:
    """Give the modules behind the operations the names that they have in the whole network."""
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["nn_module_stack"] = {
            key: (".".join(filter(None, [submodule, path])), *rest) for key, (path, *rest) in stack.items()
        }


def _inline(graph: fx.Graph, owner: nn.Module) -> None:
    """Replace every call of a recorded region (`torch.no_grad`, `torch.autocast` blocks) by the operations in it."""
    for node in list(graph.nodes):
        region = next((a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"), None)
        if node.op != "call_function" or region is None or not op_name(node).startswith("wrap_with_"):
            continue
        inner = getattr(owner, str(region.target), None)
        if not isinstance(inner, fx.GraphModule):
            continue
        _inline(inner.graph, inner)
        given = iter(node.args[node.args.index(region) + 1 :])
        copies: dict[fx.Node, Any] = {}
        with graph.inserting_before(node):
            for step in inner.graph.nodes:
                if step.op == "placeholder":
                    copies[step] = next(given)
                elif step.op == "call_function":
                    copies[step] = graph.node_copy(step, copies.__getitem__)
        results = next(step for step in inner.graph.nodes if step.op == "output").args[0]
        for user in list(node.users):
            if user.op == "call_function" and user.target is operator.getitem:
                user.replace_all_uses_with(copies[results[user.args[1]]])
                graph.erase_node(user)
        graph.erase_node(node)


def record_training(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], submodule: str | None
) -> ExportedProgram | None:
    """Return the training-mode graph, where auxiliary heads appear; None for networks that only run in evaluation."""
    try:
        return record(model.train(), arguments, keywords, submodule)
    except TraceError:
        return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _place(model: nn.Module, error: BaseException, submodule: str | None) -> str:
    """Return the innermost module of the model and the line in which the error arose."""
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules(prefix=submodule or "")}
    place = "outside the network's modules"
    link = error.__traceback__
    for frame, line in traceback.walk_tb(link):
        owner = frame.f_locals.get("self")
        if id(owner) in names and frame.f_code.co_name == "forward":
            place = f"module '{names[id(owner)]}', {frame.f_code.co_filename}:{line}"
    return place
