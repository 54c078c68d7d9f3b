"""Build a network without weights, with the classes and the input channels that a checkpoint shows."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import timm
import torch
import torchvision
from accelerate import init_empty_weights
from torch import nn

from surgeon.checkpoint.architecture import Architecture
from surgeon.checkpoint.code_file import NUM_CLASSES, call_function, default_arguments
from surgeon.checkpoint.construction import ExcessError, bounded, check_memory, most_bytes
from surgeon.checkpoint.display import shown
from surgeon.checkpoint.fit import REMEDY, Misfit, check_fit, misfits
from surgeon.checkpoint.read import Checkpoint
from surgeon.checkpoint.structure_check import check_attention, check_layers, check_passage
from surgeon.checkpoint.structure_header import MARKER, RESIZED_REMEDY, STRUCTURE_KEY, from_text
from surgeon.checkpoint.structure_names import placed
from surgeon.errors import ArchitectureError, CheckpointError
from surgeon.structure import Structure, built_sizes, rebuild, structure_of

# A network's attribute that shows whether it has auxiliary classifiers, and the builder's argument that decides it.
AUXILIARY = (("aux_logits", "aux_logits"), ("aux_classifier", "aux_loss"))

# What builders call the number of input channels: timm, and most others.
INPUT_CHANNELS = ("in_chans", "in_channels")
CONVOLUTION_AXES = 4
MOST_GUESSES = 3

# What builders raise on arguments that they cannot use.
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NameError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


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
    for propose in (
        _auxiliary_arguments, _channels_argument, _classes_argument, _added_classifier, _first_layer, _last_layer
    ):  # fmt: skip
        for arguments in propose(skeleton, found):
            other = _skeleton_or_none(_with(architecture, arguments), checkpoint, structure)
            remaining = misfits(other.state_dict(), checkpoint.tensors) if other is not None else found
            if other is not None and (len(remaining), _resizings(other)) < (len(found), _resizings(skeleton)):
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
    return f"{REMEDY} If it was resized: {RESIZED_REMEDY}" if len(_misshapen(found)) == len(found) else REMEDY


def _auxiliary_arguments(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The opposite of what the network has, where tensors of one side are without counterpart."""
    if any(misfit.found is None or misfit.wanted is None for misfit in found):
        for attribute, argument in AUXILIARY:
            if hasattr(skeleton, attribute):
                yield {argument: not getattr(skeleton, attribute)}


def _channels_argument(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The checkpoint's number of input channels, where the first misshapen convolution differs in these only."""
    del skeleton
    for wanted, given in _misshapen(found):
        if len(wanted) == len(given) == CONVOLUTION_AXES and wanted[:1] + wanted[2:] == given[:1] + given[2:]:
            yield from ({argument: given[1]} for argument in INPUT_CHANNELS)
            return


def _classes_argument(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The checkpoint's size, where misshapen tensors differ in their first axis only: the classifier's come last.

    Other tensors may be misshapen too: then the classifier shall not be listed among them.
    """
    del skeleton
    sizes = [given[0] for wanted, given in _misshapen(found) if wanted and given and wanted[1:] == given[1:]]
    yield from ({NUM_CLASSES: size} for size in list(dict.fromkeys(reversed(sizes)))[:MOST_GUESSES])


def _misshapen(found: list[Misfit]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The network's and the file's shape of the tensors that differ in it."""
    pairs = [
        (tuple(misfit.wanted.shape), tuple(misfit.found.shape))
        for misfit in found
        if misfit.wanted is not None and misfit.found is not None
    ]
    return [(wanted, given) for wanted, given in pairs if wanted != given]


def _added_classifier(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The common size of surplus tensors, for networks that have no classifier by default."""
    del skeleton
    surplus = [misfit.found for misfit in found if misfit.wanted is None and misfit.found is not None]
    sizes = {tuple(tensor.shape[:1]) for tensor in surplus}
    if len(sizes) == 1 and len(surplus) == len(found) and surplus[0].ndim:
        yield {NUM_CLASSES: surplus[0].shape[0]}


def _first_layer(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The input channels of the first convolution, where it is the structure that gives it others than the builder."""
    del found
    first = next((name for name, module in skeleton.named_modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and (size := _resized_to(skeleton, first, "in_channels")) is not None:
        yield from ({argument: size} for argument in INPUT_CHANNELS)


def _last_layer(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The output size of the last layer, where it is the structure that gives it another than the builder."""
    del found
    layers = [name for name, module in skeleton.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for attribute in ("out_features", "out_channels"):
        if layers and (size := _resized_to(skeleton, layers[-1], attribute)) is not None:
            yield {NUM_CLASSES: size}


def _resized_to(skeleton: nn.Module, name: str, attribute: str) -> int | None:
    """A size that a structure gives a layer, where it is not the builder's."""
    size = structure_of(skeleton).widths.get(name, {}).get(attribute)
    return None if size is None or size == built_sizes(skeleton)[name][attribute] else size


def _resizings(skeleton: nn.Module) -> int:
    """How many sizes of layers the structure changes."""
    widths = structure_of(skeleton).widths
    return sum(_resized_to(skeleton, name, size) is not None for name, sizes in widths.items() for size in sizes)


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
    bounds = bounded(most_bytes(checkpoint.tensors) if checkpoint is not None else None)
    try:
        # What the user's own code builds is the user's to bound.
        with contextlib.nullcontext() if architecture.source == "file" else bounds:
            model = _call_builder(architecture, checkpoint is None if initialize is None else initialize)
    except _FAILURES as error:
        raise _unbuildable(architecture, error) from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture} returned a {type(model).__name__} instead of a network.",
            "Pass --arch with a function that builds one.",
        )
    return model


def _unbuildable(architecture: Architecture, error: Exception) -> ArchitectureError:
    given = f" with {shown(architecture.arguments)}" if architecture.arguments else ""
    reason = shown(error) if isinstance(error, ExcessError) else f"{type(error).__name__}, {shown(error)}"
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
