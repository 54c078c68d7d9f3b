"""Networks as a few tensors and a hand-made list of layers, for methods that look at layers alone."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from surgeon.coupling.graph import CouplingGraph, Layer, ModuleOutputs, Norm, Writer
from surgeon.edit.plan import Blend, Plan, Set
from surgeon.methods.base import Inputs


def conv(name: str, *, filters: int = 0, groups: int = 1, bias: bool = False, norm: str | None = None) -> Layer:
    """Return a convolution; `norm` names the BatchNorm right behind it."""
    behind = None if norm is None else batch_norm(norm)
    writer = Writer(f"{name}.weight", f"{name}.bias" if bias else None, behind)
    return Layer(name, writer, filters, groups, convolution=True, positions=1)


def linear(name: str) -> Layer:
    """Return a linear layer with a bias."""
    return Layer(name, Writer(f"{name}.weight", f"{name}.bias", None), 0, 1, convolution=False, positions=1)


def computed(name: str, *, convolution: bool = True) -> Layer:
    """Return a layer whose weight is computed from other tensors."""
    return Layer(name, None, 0, 1, convolution=convolution, positions=1)


def batch_norm(name: str) -> Norm:
    """Return a BatchNorm with scale and shift."""
    return Norm(f"{name}.weight", f"{name}.bias", f"{name}.running_mean", f"{name}.running_var", 1e-5)


def inputs(layers: Sequence[Layer], tensors: Mapping[str, torch.Tensor], **others: Any) -> Inputs:
    """Return a method's inputs for these layers and tensors."""
    graph = CouplingGraph((), (), cast(ModuleOutputs, None), tuple(layers))
    return Inputs(graph, others.pop("targets", ()), tensors, **others)


def carried_out(tensors: Mapping[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
    """Return the tensors after a plan of values and blends, by the definition of these two edits."""
    result = {key: tensor.clone() for key, tensor in tensors.items()}
    for edit in plan.edits:
        tensor = result[edit.tensor]
        if isinstance(edit, Set):
            tensor.reshape(-1)[edit.entries] = edit.values
        else:
            assert isinstance(edit, Blend)
            tensor.copy_(edit.share * tensor + (1 - edit.share) * edit.other)
    return result
