"""Build a network without weights, with the number of classes that a checkpoint shows."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from surgeon.checkpoint.architecture import Architecture
from surgeon.checkpoint.code_file import NUM_CLASSES, call_function, default_arguments
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.fit import Misfit, check_fit, misfits
from surgeon.checkpoint.read import Checkpoint
from surgeon.errors import ArchitectureError

# A network's attribute that shows whether it has auxiliary classifiers, and the builder's argument that decides it.
AUXILIARY = (("aux_logits", "aux_logits"), ("aux_classifier", "aux_loss"))

# What builders raise on arguments that they cannot use.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


def build(architecture: Architecture, checkpoint: Checkpoint | None = None) -> nn.Module:
    """Build a network, with random weights.

    Args:
        architecture: which one.
        checkpoint: the tensors that it is built for. Where they show another number of classes than the builder's
            default, or auxiliary classifiers where it has none, the network is built as they show it.

    Returns:
        The network in training mode; its attribute `surgeon_architecture` says how it was built.

    Raises:
        ArchitectureError: the network cannot be built.
        CheckpointError: the tensors do not fit, whatever the number of classes.
    """
    if architecture.source == "file":
        architecture = _with(architecture, default_arguments(architecture.name) | architecture.arguments)
    if checkpoint is not None:
        architecture = _adapted(architecture, checkpoint)
    model = _construct(architecture, initialize=checkpoint is None)
    model.surgeon_architecture = architecture  # type: ignore[assignment]
    return model


def _with(architecture: Architecture, arguments: dict[str, Any]) -> Architecture:
    return replace(architecture, arguments=architecture.arguments | arguments)


def _adapted(architecture: Architecture, checkpoint: Checkpoint) -> Architecture:
    """The architecture with whatever arguments leave fewer tensors without a fit; refused where some still are."""
    skeleton = _skeleton(architecture)
    found = misfits(skeleton.state_dict(), checkpoint.tensors)
    for propose in (_auxiliary_arguments, _classes_argument, _added_classifier):
        for arguments in propose(skeleton, found):
            other = _skeleton_or_none(_with(architecture, arguments))
            remaining = misfits(other.state_dict(), checkpoint.tensors) if other is not None else found
            if other is not None and len(remaining) < len(found):
                architecture, skeleton, found = _with(architecture, arguments), other, remaining
    check_fit(skeleton.state_dict(), checkpoint, str(architecture))
    return architecture


def _auxiliary_arguments(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The opposite of what the network has, where tensors of one side are without counterpart."""
    if any(misfit.found is None or misfit.wanted is None for misfit in found):
        for attribute, argument in AUXILIARY:
            if hasattr(skeleton, attribute):
                yield {argument: not getattr(skeleton, attribute)}


def _classes_argument(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The checkpoint's size, where all misshapen tensors differ in their first axis only and by one pair of sizes."""
    del skeleton
    shapes = [
        (tuple(misfit.wanted.shape), tuple(misfit.found.shape))
        for misfit in found
        if misfit.wanted is not None and misfit.found is not None
    ]
    pairs = {(wanted[:1], given[:1]) for wanted, given in shapes}
    if len(pairs) == 1 and all(wanted and given and wanted[1:] == given[1:] for wanted, given in shapes):
        yield {NUM_CLASSES: shapes[0][1][0]}


def _added_classifier(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The common size of surplus tensors, for networks that have no classifier by default."""
    del skeleton
    surplus = [misfit.found for misfit in found if misfit.wanted is None and misfit.found is not None]
    sizes = {tuple(tensor.shape[:1]) for tensor in surplus}
    if len(sizes) == 1 and len(surplus) == len(found) and surplus[0].ndim:
        yield {NUM_CLASSES: surplus[0].shape[0]}


def _skeleton_or_none(architecture: Architecture) -> nn.Module | None:
    """The skeleton, or None where the builder does not take these arguments: they were a guess."""
    try:
        return _skeleton(architecture)
    except ArchitectureError:
        return None


def _skeleton(architecture: Architecture) -> nn.Module:
    """The network without memory for its weights where possible: a checkpoint's word may ask for any amount."""
    if architecture.source == "file":
        return _construct(architecture, initialize=False)
    try:
        with torch.device("meta"):
            return _construct(architecture, initialize=False)
    except ArchitectureError as error:
        # Some builders compute their widths with tensors, which needs memory.
        if isinstance(error.__cause__, NotImplementedError):
            return _construct(architecture, initialize=False)
        raise


def _construct(architecture: Architecture, *, initialize: bool) -> nn.Module:
    try:
        model = _call_builder(architecture, initialize)
    except _FAILURES as error:
        given = f" with {shown(architecture.arguments)}" if architecture.arguments else ""
        raise ArchitectureError(
            f"{architecture} cannot be built{given}: {type(error).__name__}, {shown(error)}.",
            "Pass another --arch, or correct the arguments in the header or config.json.",
        ) from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture} returned a {type(model).__name__} instead of a network.",
            "Pass --arch with a function that builds one.",
        )
    return model


def _call_builder(architecture: Architecture, initialize: bool) -> Any:
    if architecture.source == "timm":
        return timm.create_model(architecture.name, pretrained=False, **architecture.arguments)
    if architecture.source == "torchvision":
        return _call_torchvision(architecture, initialize)
    return call_function(architecture.name, architecture.arguments)


def _call_torchvision(architecture: Architecture, initialize: bool) -> nn.Module:
    arguments = dict(architecture.arguments)
    signature = inspect.signature(torchvision.models.get_model_builder(architecture.name))
    if "weights_backbone" in signature.parameters:
        arguments["weights_backbone"] = None
    network = signature.return_annotation
    if inspect.isclass(network) and "init_weights" in inspect.signature(network).parameters:
        # Without a choice some builders warn, and draw numbers at length that a checkpoint replaces.
        arguments["init_weights"] = initialize
    return torchvision.models.get_model(architecture.name, weights=None, **arguments)
