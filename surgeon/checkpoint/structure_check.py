"""Whether a network can have the structure that an untrusted header asks for; nothing is computed or allocated."""

from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.checkpoint.display import listed, shown
from surgeon.checkpoint.fit import REMEDY as OTHER_ARCH
from surgeon.checkpoint.state_dict import common_prefix
from surgeon.checkpoint.structure_header import REMEDY, RESIZED_REMEDY
from surgeon.errors import CheckpointError
from surgeon.image_shape import image_shape
from surgeon.structure import CrossAttentionConv2d, CrossSets, Structure, attendable, shapes_at, sizes_of

LARGEST_BUILT = 2**16
"""Channels of a layer as its builder makes it: resized, the file's tensors do not bound them."""

# What a forward pass raises on tensors that do not fit; python code may stumble over shapes in any of these ways.
_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _UnfitError(RuntimeError):
    """A layer is given another number of channels than it reads."""


def check_layers(model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Check that the layers of a network can have a structure, and that a file's tensors are of it.

    Args:
        model: as its builder makes it, on the meta device.
        structure: what a header asks for.
        tensors: the file's, under names without the prefixes of wrappers.
        origin: the file, for messages.

    Raises:
        CheckpointError: a layer does not exist, is of another kind, or would not have the file's shapes.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    start = len(common_prefix(model.state_dict().keys()))
    own = {}
    for name in dict.fromkeys((*structure.widths, *structure.attention)):
        where = f"The structure in the header of {origin}"
        if name not in modules:
            raise CheckpointError(f"{where} names the layer {shown(name)!r}, which the network lacks.", OTHER_ARCH)
        known = sizes_of(modules[name])
        if known is None:
            kind = type(modules[name]).__name__
            raise CheckpointError(f"{where} changes {name}, a {kind}, which cannot be resized.", OTHER_ARCH)
        if max(known.values()) > LARGEST_BUILT:
            raise CheckpointError(
                f"{where} resizes {name}, which the network's arguments give {max(known.values())} channels.", REMEDY
            )
        own[name] = known
    for name, sizes in structure.widths.items():
        _check_sizes(modules[name], own[name], sizes, f"The structure in the header of {origin} gives {name}")
        _check_shapes(modules[name], name, sizes, start, tensors, origin)
    for name, sets in structure.attention.items():
        sizes = {**own[name], **structure.widths.get(name, {})}
        _check_sets(modules[name], sizes, sets, f"The structure in the header of {origin} gives {name}")


def check_passage(model: nn.Module, unchanged: Callable[[], nn.Module], *, origin: str) -> None:
    """Check that the layers of a resized network fit each other, by a forward pass without numbers.

    Nothing is refused where the network as it is built does not take such images either.

    Args:
        model: the resized network, on the meta device.
        unchanged: returns the network as its builder makes it, on the meta device.
        origin: the file, for messages.

    Raises:
        CheckpointError: a layer is given another number of channels than it reads.
    """
    if _failure(model, image_shape(model)) is None:
        return
    stock = unchanged()
    shape = next((shape for shape in _shapes(stock) if _failure(stock, shape) is None), None)
    failure = None if shape is None else _failure(model, shape)
    if failure is not None:
        raise CheckpointError(
            f"The structure in the header of {origin} makes a network whose layers do not fit each other: {failure}.",
            REMEDY,
        )


def _shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return what the images of a network may be: as it is configured, or with as many channels as it reads first."""
    usual = image_shape(model)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return [usual] if first is None else [usual, (first.in_channels, *usual[1:])]


def check_attention(model: nn.Module, attending: Collection[str], origin: str) -> None:
    """Check that a network has cross-attention where the one had it whose tensors a file holds.

    Args:
        model: the network.
        attending: names of convolutions, without the prefixes of wrappers.
        origin: the file, for messages.

    Raises:
        CheckpointError: one of them has none, so that it would compute something else with the same weights.
    """
    modules = dict(model.named_modules(remove_duplicate=False)) if attending else {}
    prefix = common_prefix(model.state_dict().keys()) if attending else ""
    plain = [name for name in attending if not isinstance(modules.get(prefix + name), CrossAttentionConv2d)]
    if plain:
        raise CheckpointError(
            f"{origin} holds weights of a network with cross-attention (in {listed(plain)}), and does not say which of "
            "its channels are rejuvenated.",
            RESIZED_REMEDY,
        )


def _check_sizes(module: nn.Module, known: Mapping[str, int], sizes: Mapping[str, int], where: str) -> None:
    strange = [name for name in sizes if name not in known]
    if strange:
        raise CheckpointError(
            f"{where} {shown(strange[0])!r}, which a {type(module).__name__} has not: it has {', '.join(known)}.",
            REMEDY,
        )
    if shapes_at(module, sizes) is None:
        described = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise CheckpointError(f"{where} {described}, which do not go together.", REMEDY)


def _check_shapes(
    module: nn.Module, name: str, sizes: Mapping[str, int], start: int, tensors: Mapping[str, Tensor], origin: str
) -> None:
    """Compare what the layer's tensors would be with what the file holds."""
    borne_out = False
    for own, shape in (shapes_at(module, sizes) or {}).items():
        key = f"{name}.{own}"[start:]
        if key not in tensors or not shape:
            continue
        if tuple(tensors[key].shape) != shape:
            raise CheckpointError(
                f"The structure in the header of {origin} makes {key} of shape {list(shape)}, and the file's is "
                f"{list(tensors[key].shape)}.",
                REMEDY,
            )
        borne_out = True
    if not borne_out:
        raise CheckpointError(
            f"The structure in the header of {origin} gives {name} sizes, and the file has no tensor of it.", REMEDY
        )


def _check_sets(module: nn.Module, sizes: Mapping[str, int], sets: CrossSets, where: str) -> None:
    if not attendable(module) or sizes["groups"] != 1:
        raise CheckpointError(f"{where} cross-attention, and it is no plain convolution over images.", REMEDY)
    for side, chosen, size in (("written", sets.written, "out_channels"), ("read", sets.read, "in_channels")):
        if any(later <= earlier for earlier, later in pairwise(chosen)):
            raise CheckpointError(f"{where} {side} channels that do not ascend.", REMEDY)
        if chosen and chosen[-1] >= sizes[size]:
            raise CheckpointError(f"{where} a {side} channel that is not one of its {sizes[size]}.", REMEDY)
        if not 0 < len(chosen) < sizes[size]:
            raise CheckpointError(f"{where} {len(chosen)} of {sizes[size]} {side} channels as new, not some.", REMEDY)


def _failure(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return where and why a forward pass of a network on the meta device ends early, or None where it does not.

    Args:
        model: the network.
        shape: channels, height and width of an image.
    """
    entered = ["the network"]

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def check(module: nn.Module, inputs: Any) -> None:
            entered[0] = name or entered[0]
            # Not every operation on the meta device looks at the sizes.
            if isinstance(module, nn.modules.conv._ConvNd) and inputs and isinstance(inputs[0], Tensor):
                given = inputs[0].shape[-1 - len(module.kernel_size)]
                if given != module.in_channels:
                    raise _UnfitError(f"it reads {module.in_channels} channels and is given {given}")

        return check

    hooks = [module.register_forward_pre_hook(enter(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, *shape, device="meta"))
    except _FAILURES as error:
        return f"at {entered[0]}, {shown(str(error).splitlines()[0] if str(error) else type(error).__name__)}"
    finally:
        for hook in hooks:
            hook.remove()
    return None
