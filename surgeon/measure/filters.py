"""The filters of a convolution or linear layer, one row each, and the BatchNorm that is theirs alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from surgeon.coupling.graph import Layer, Norm


def filter_rows(weight: Tensor, layer: Layer) -> Tensor:
    """Give the weights of every filter as one row.

    Args:
        weight: the layer's weight, e.g. `[O, I / groups, kh, kw]`; `[I, O / groups, kh, kw]` of a transposed
            convolution, where every group of input channels has the filters of its own output channels.
        layer: the layer.

    Returns:
        `[O, n]`, in the order of the output channels.
    """
    if layer.filters == 0:
        return weight.reshape(weight.shape[0], -1)
    inputs, outputs = weight.shape[0] // layer.groups, weight.shape[1]
    apart = weight.reshape(layer.groups, inputs, outputs, -1).transpose(1, 2)
    return apart.reshape(layer.groups * outputs, -1)


def filter_count(layer: Layer, tensors: Mapping[str, Tensor]) -> int:
    """Give the number of a layer's filters, which is that of its output channels; its weight must be a tensor."""
    assert layer.writer is not None
    size = tensors[layer.writer.weight].shape[layer.filters]
    return size * layer.groups if layer.filters else size


def is_depthwise(layer: Layer, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether each filter of a layer reads one channel of its own; its weight must be a tensor."""
    assert layer.writer is not None
    shape = tensors[layer.writer.weight].shape
    return layer.groups > 1 and (shape[0] == layer.groups if layer.filters else shape[1] == 1)


def own_norms(layers: Sequence[Layer]) -> dict[str, Norm]:
    """Give the BatchNorm right behind each layer, by the layer's name, where no other of these layers has it too.

    Args:
        layers: all layers of the network.
    """
    behind = {layer.name: layer.writer.norm for layer in layers if layer.writer is not None and layer.writer.norm}
    uses = Counter(norm.running_mean for norm in behind.values())
    return {name: norm for name, norm in behind.items() if uses[norm.running_mean] == 1}
