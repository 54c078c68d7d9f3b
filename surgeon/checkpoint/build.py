"""Build a network without weights, with the classes and the input channels that a checkpoint shows."""

import contextlib
import inspect
from dataclasses import replace
from typing import Any

import timm
import torch
import torchvision
from accelerate import init_empty_weights
from torch import nn

from surgeon.checkpoint.architecture import Architecture
from surgeon.checkpoint.code_file import call_function, default_arguments
from surgeon.checkpoint.construction import ExcessError, bounded, check_memory, most_bytes
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.fit import REMEDY, Misfit, check_fit, misfits
from surgeon.checkpoint.guesses import GUESSES, misshapen, resizings
from surgeon.checkpoint.read import Checkpoint
from surgeon.checkpoint.structure_check import check_attention, check_layers, check_passage
from surgeon.checkpoint.structure_header import MARKER, RESIZED_REMEDY, STRUCTURE_KEY, from_text
from surgeon.checkpoint.structure_names import placed
from surgeon.errors import ArchitectureError, CheckpointError, SurgeonError
from surgeon.structure import Structure, rebuild


def build(architecture: Architecture, checkpoint: Checkpoint | None = None) -> nn.Module:
    """Build a network, with random weights.

    Args:
        architecture: which one.
        checkpoint: the tensors that it is built for. Where they show another number of classes or of input channels
            than the builder's default, or auxiliary classifiers where it has none, the network is built as they show
            it. Where its header holds a structure, the network has that, too.

    Returns:
        The network in training mode; its attribute `surgeon_architecture` says how it was built.

    Raises:
        ArchitectureError: the network cannot be built.
        CheckpointError: the tensors do not fit, whatever the number of classes, or the structure is none that the
            network can have with these tensors.
    """
    if architecture.source == "file":
        architecture = _with(architecture, default_arguments(architecture.name) | architecture.arguments)
    if checkpoint is None:
        model = _construct(architecture)
    else:
        structure = _structure(checkpoint)
        architecture = _adapted(architecture, checkpoint, structure)
        model = _resized(architecture, structure) if structure else _construct(architecture, checkpoint)
        check_attention(model, checkpoint.attending, str(checkpoint.path))
    # Into the dictionary, since nn.Module declares that it takes nothing but tensors and modules as attributes.
    vars(model)["surgeon_architecture"] = architecture
    return model


def _with(architecture: Architecture, arguments: dict[str, Any]) -> Architecture:
    return replace(architecture, arguments=architecture.arguments | arguments)


def _structure(checkpoint: Checkpoint) -> Structure:
    """What the header asks for, which nothing has been held against yet."""
    text = checkpoint.metadata.get(STRUCTURE_KEY)
    return Structure() if text is None else from_text(text, checkpoint.path)


def _adapted(architecture: Architecture, checkpoint: Checkpoint, structure: Structure) -> Architecture:
    """The architecture with whatever arguments leave fewer tensors without a fit; refused where some still are.

    Of arguments with which as many fit, those are taken that leave less for the structure to resize.
    """
    requested = architecture
    skeleton = _shaped_skeleton(architecture, checkpoint, structure)
    found = misfits(skeleton.state_dict(), checkpoint.tensors)
    for propose in GUESSES:
        for arguments in propose(skeleton, found):
            other = _skeleton_or_none(_with(architecture, arguments), checkpoint, structure)
            remaining = misfits(other.state_dict(), checkpoint.tensors) if other is not None else found
            if other is not None and (len(remaining), resizings(other)) < (len(found), resizings(skeleton)):
                architecture, skeleton, found = _with(architecture, arguments), other, remaining
    if found:
        check_fit(
            skeleton.state_dict(), checkpoint, str(architecture), _remedy(requested, checkpoint, structure, found)
        )
    if architecture.source != "file":
        # Some of what a network keeps in memory is no part of its state, and as large as its arguments say.
        try:
            check_memory(skeleton, most_bytes(checkpoint.tensors))
        except ExcessError as error:
            raise _unbuildable(architecture, error) from error
    if structure:
        check_passage(skeleton, lambda: _bare(architecture, checkpoint), origin=str(checkpoint.path))
    return architecture


def _remedy(architecture: Architecture, checkpoint: Checkpoint, structure: Structure, found: list[Misfit]) -> str:
    """What to do about tensors that do not fit: another library's network of this name, or the file as it was."""
    if architecture.source == "timm" and architecture.name in torchvision.models.list_models():
        other = Architecture("torchvision", architecture.name)
        with contextlib.suppress(ArchitectureError, CheckpointError):
            _adapted(other, checkpoint, structure)
            return f"Pass --arch {other}, which the tensors fit."
    if structure:
        return REMEDY
    if MARKER in checkpoint.tensors:
        return RESIZED_REMEDY
    return f"{REMEDY} If it was resized: {RESIZED_REMEDY}" if len(misshapen(found)) == len(found) else REMEDY


def _skeleton_or_none(architecture: Architecture, checkpoint: Checkpoint, structure: Structure) -> nn.Module | None:
    """The skeleton, or None where the builder does not take these arguments: they were a guess."""
    try:
        return _shaped_skeleton(architecture, checkpoint, structure)
    except (ArchitectureError, CheckpointError):
        return None


def _shaped_skeleton(architecture: Architecture, checkpoint: Checkpoint, structure: Structure) -> nn.Module:
    """The skeleton with a structure; refused where it cannot have that."""
    if not structure:
        return _skeleton(architecture, checkpoint)
    skeleton = _bare(architecture, checkpoint)
    structure = placed(structure, skeleton)
    check_layers(skeleton, structure, checkpoint.tensors, str(checkpoint.path))
    rebuild(skeleton, structure)
    return skeleton


def _bare(architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The skeleton without any memory."""
    return _skeleton(architecture, checkpoint).to("meta")


def _resized(architecture: Architecture, structure: Structure) -> nn.Module:
    """The network with a structure that was checked; where its builder is a library's, with no memory for more."""
    # What the arguments of a file ask for may be of any size until the structure makes it small.
    empty = init_empty_weights(include_buffers=False) if architecture.source != "file" else contextlib.nullcontext()
    with empty:
        model = _construct(architecture, initialize=False)
    structure = placed(structure, model)
    rebuild(model, Structure(structure.widths))
    _give_memory(model)
    # Numbers of channels are kept where the weights are, so the sets come last.
    rebuild(model, structure)
    return model


def _give_memory(model: nn.Module) -> None:
    """Put parameters of any values in the place of those without memory; what is tied stays so."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_meta:
                own = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
                setattr(module, name, made.setdefault(id(parameter), own))


def _skeleton(architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
    """The network without memory for its weights where possible: a checkpoint's word may ask for any amount."""
    if architecture.source == "file":
        return _construct(architecture, checkpoint)
    try:
        with torch.device("meta"):
            return _construct(architecture, checkpoint)
    except ArchitectureError as error:
        # Some builders compute their widths with tensors, and torch cannot read a number from one without memory.
        if isinstance(error.__cause__, NotImplementedError):
            return _construct(architecture, checkpoint)
        raise


def _construct(
    architecture: Architecture, checkpoint: Checkpoint | None = None, *, initialize: bool | None = None
) -> nn.Module:
    """Call the builder.

    Args:
        architecture: which one, and its arguments.
        checkpoint: what the network is for, which bounds how large it may be; None where it is not known, or no bound.
        initialize: draw random weights, where that can be chosen; by default where there is no checkpoint.
    """
    limit = most_bytes(checkpoint.tensors) if checkpoint is not None else None
    # What libraries build by themselves ends, and counting its steps takes a while.
    bounds = bounded(limit, steps=bool(architecture.arguments))
    try:
        # What the user's own code builds is the user's to bound.
        with contextlib.nullcontext() if architecture.source == "file" else bounds:
            model = _call_builder(architecture, checkpoint is None if initialize is None else initialize)
    except SurgeonError:
        raise
    except Exception as error:
        # Whatever builders raise on arguments that they cannot use.
        raise _unbuildable(architecture, error) from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture} returned a {type(model).__name__} instead of a network.",
            "Pass --arch with a function that builds one.",
        )
    return model


def _unbuildable(architecture: Architecture, error: Exception) -> ArchitectureError:
    given = f" with {shown(architecture.arguments)}" if architecture.arguments else ""
    kind = [] if isinstance(error, ExcessError) else [type(error).__name__]
    reason = ", ".join(kind + ([shown(error)] if str(error) else []))
    return ArchitectureError(
        f"{architecture} cannot be built{given}: {reason}.",
        "Pass another --arch, or correct the arguments in the header or config.json.",
    )


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
