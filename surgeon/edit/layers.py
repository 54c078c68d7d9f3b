"""Which sizes the layers have once channel groups have other widths."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from surgeon.edit.plan import Resize
from surgeon.edit.runs import Axis, axes_of, new_shape
from surgeon.errors import PlanError
from surgeon.structure import shapes_at, sizes_of

Axes = Mapping[str, Sequence[Axis]]
"""The axes that change, by state-dict key."""

REMEDY = "Leave these channels out, or make the plan anew for this network."


def owner(key: str) -> str:
    """Return the name of the module that a tensor belongs to."""
    return key.rpartition(".")[0]


def changed_axes(edit: Resize, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Axis, ...]]:
    """Return the axes that an edit changes, by state-dict key.

    Args:
        edit: the new widths.
        tensors: the network's by state-dict key, as they are before.
    """
    return {key: axes_of(edit, key, tensors[key].shape) for key in edit.by_tensor}


def sizes_then(model: nn.Module, axes: Axes) -> dict[str, dict[str, int]]:
    """Return the sizes by attribute of every layer that changes, by its name.

    Raises:
        PlanError: a layer cannot have the sizes that its tensors would have.
    """
    result = {}
    for name in dict.fromkeys(map(owner, axes)):
        sizes = layer_sizes(model.get_submodule(name), name, axes)
        if sizes is None:
            raise PlanError(f"The layer '{name}' cannot have the sizes that its channels would need.", REMEDY)
        result[name] = sizes
    return result


def layer_sizes(module: nn.Module, name: str, axes: Axes) -> dict[str, int] | None:
    """Return a layer's sizes by attribute once its axes have changed; None where it cannot have them.

    Args:
        module: the layer.
        name: its name in the network.
        axes: the axes that change.
    """
    if sizes_of(module) is None:
        return None
    shapes = {}
    for local, tensor in module.state_dict(keep_vars=True).items():
        shape = new_shape(axes.get(f"{name}.{local}" if name else local, ()), tensor.shape)
        if shape is None:
            return None
        shapes[local] = shape
    sizes = _sizes(module, shapes)
    return sizes if sizes is not None and shapes_at(module, sizes) == shapes else None


def filters_a_channel(module: nn.Module) -> int | None:
    """Return how many filters of its own each channel has that a depthwise convolution reads; None for other layers."""
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or module.groups < 2:
        return None
    return module.out_channels // module.groups if module.in_channels == module.groups else None


def _sizes(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, int] | None:
    if isinstance(module, nn.Linear):
        written, read = shapes["weight"]
        return {"in_features": read, "out_features": written}
    if isinstance(module, nn.modules.conv._ConvNd):
        return _convolution_sizes(module, *shapes["weight"][:2])
    lengths = {shape[0] for shape in shapes.values() if shape}
    return {"num_features": lengths.pop()} if len(lengths) == 1 else None


def _convolution_sizes(module: nn.modules.conv._ConvNd, first: int, second: int) -> dict[str, int] | None:
    groups = module.groups
    if module.transposed:
        if 1 < groups == module.in_channels:
            groups = first
        return {"in_channels": first, "out_channels": second * groups, "groups": groups}
    filters = filters_a_channel(module)
    if filters is None:
        return {"in_channels": second * groups, "out_channels": first, "groups": groups}
    groups, rest = divmod(first, filters)
    return None if rest else {"in_channels": groups, "out_channels": first, "groups": groups}


def sharing(model: nn.Module, keys: Iterable[str]) -> set[str]:
    """Return those of some tensors (state-dict keys) that more than one layer uses."""
    # Modules that stand in several places are one layer, and appear once here.
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                users.setdefault(_memory(tensor), set()).add(id(module))
    tensors = model.state_dict(keep_vars=True)
    return {key for key in keys if len(users.get(_memory(tensors[key]), ())) > 1}


def _memory(tensor: Tensor) -> int:
    """Return a number that tensors of one memory have in common."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.untyped_storage().data_ptr()
