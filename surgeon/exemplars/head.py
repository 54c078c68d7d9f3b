"""Whether a layer of a network itself produces the logits, or whether what it returns are features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _NormBase

_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

_ACTIVATIONS = ("Relu", "LeakyRelu", "Gelu", "Silu", "Hardswish", "Hardtanh", "Elu", "Tanh", "Mish", "PreluKernel")
"""What autograd calls them: features of a hidden layer pass through one, and logits do not."""


class LayerOutputs:
    """Which layer returned which tensor of a forward pass."""

    def __init__(self) -> None:
        self._layers: dict[Node, nn.Module] = {}

    def add(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Take down what a layer returned; a forward hook."""
        del inputs
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._layers[output.grad_fn] = layer

    def make(self, logits: Tensor) -> bool:
        """Tell whether logits are those of classifiers: of one, or of several that are added up or averaged.

        The first layers with weights on every way back from them are linear layers with a row a class, without an
        activation in between; or 1×1 convolutions, which may have one and are averaged over the image (SqueezeNet).

        Args:
            logits: [B, classes], with a gradient on the image.
        """
        assert logits.grad_fn is not None
        stack: list[tuple[Node, bool]] = [(logits.grad_fn, False)]
        seen = set(stack)
        while stack:
            node, activated = stack.pop()
            layer = self._layers.get(node)
            if layer is not None and _classifies(layer, logits.shape[1], activated):
                continue
            sources = [source for source, _ in node.next_functions if source is not None]
            # Without any it is the image.
            if layer is not None or not sources:
                return False
            activated = activated or node.name().startswith(_ACTIVATIONS)
            new = [(source, activated) for source in sources if (source, activated) not in seen]
            seen.update(new)
            stack += new
        return True


@contextmanager
def layer_outputs(model: nn.Module) -> Iterator[LayerOutputs]:
    """Watch the layers that have weights of their own or normalize, while the context lasts."""
    outputs = LayerOutputs()
    handles = [
        module.register_forward_hook(outputs.add)
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, *_NORMALIZATIONS))
        or (not list(module.children()) and list(module.parameters(recurse=False)))
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _classifies(layer: nn.Module, classes: int, activated: bool) -> bool:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or len(weight) != classes:
        return False
    pointwise = all(length == 1 for length in weight.shape[2:])
    return pointwise and (isinstance(layer, nn.Conv2d) or not activated)
