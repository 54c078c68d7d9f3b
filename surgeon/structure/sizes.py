"""The sizes that a layer knows of itself beside its tensors, and how they change together."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Shape = tuple[int, ...]
Fill = Callable[[str, Tensor, Shape], Tensor]
"""`fill(name, tensor, shape)` returns what takes a tensor's place: of that shape, with the same dtype and device."""

NORM = ("num_features",)


def sizes_of(module: nn.Module) -> dict[str, int] | None:
    """Return a layer's sizes by attribute, or None where it is not known how its tensors follow from them."""
    names = _names(module)
    if names is None or (names != NORM and "weight" not in _own(module)):
        return None
    sizes = {name: int(getattr(module, name)) for name in names}
    shapes = shapes_at(module, sizes)
    present = {name: tuple(tensor.shape) for name, tensor in _own(module).items()}
    # A layer whose weight is computed from others, or that has more of them, is not one of these whatever its class.
    return sizes if shapes is not None and shapes == present else None


def shapes_at(module: nn.Module, sizes: Mapping[str, int]) -> dict[str, Shape] | None:
    """Return the shapes by name that a layer's own tensors would have at other sizes; None where there are none.

    Args:
        module: a convolution, linear layer or BatchNorm.
        sizes: by attribute; what is left out stays.
    """
    full = {name: sizes.get(name, getattr(module, name)) for name in _names(module) or ()}
    if min(full.values(), default=0) < 1:
        return None
    shapes = {}
    for name, tensor in _own(module).items():
        shape = _shape(module, name, tensor, full)
        if shape is None:
            return None
        shapes[name] = shape
    return shapes


def set_sizes(module: nn.Module, sizes: Mapping[str, int], fill: Fill) -> None:
    """Give a layer other sizes, in place: its parameters stay the same objects, and lose their gradients.

    Args:
        module: one for which `sizes_of` knows sizes.
        sizes: by attribute; what is left out stays.
        fill: makes the tensors.
    """
    shapes = shapes_at(module, sizes)
    assert shapes is not None, f"{type(module).__name__} cannot have the sizes {dict(sizes)}"
    for name, tensor in _own(module).items():
        if tuple(tensor.shape) == shapes[name]:
            continue
        made = fill(name, tensor.detach(), shapes[name])
        assert tuple(made.shape) == shapes[name]
        if isinstance(tensor, nn.Parameter):
            tensor.grad = None
            tensor.data = made
        else:
            module.register_buffer(name, made)
    for name, size in sizes.items():
        setattr(module, name, size)


def _names(module: nn.Module) -> tuple[str, ...] | None:
    if isinstance(module, _ConvNd):
        return "in_channels", "out_channels", "groups"
    if isinstance(module, nn.Linear):
        return "in_features", "out_features"
    if isinstance(module, _NormBase):
        return NORM
    return None


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the layer itself that are a part of its state."""
    state = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor) and "." not in name}


def _shape(module: nn.Module, name: str, tensor: Tensor, sizes: Mapping[str, int]) -> Shape | None:
    if isinstance(module, _ConvNd):
        written, read, groups = sizes["out_channels"], sizes["in_channels"], sizes["groups"]
        if written % groups or read % groups:
            return None
        first, second = (read, written // groups) if module.transposed else (written, read // groups)
        return {"weight": (first, second, *module.kernel_size), "bias": (written,)}.get(name)
    if isinstance(module, nn.Linear):
        return {"weight": (sizes["out_features"], sizes["in_features"]), "bias": (sizes["out_features"],)}.get(name)
    return () if tensor.dim() == 0 else (sizes["num_features"],) if tensor.dim() == 1 else None
