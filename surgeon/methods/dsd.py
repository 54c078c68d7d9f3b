"""`dsd`: dense-sparse-dense training: hold the smallest weights at zero for a while, then let them learn again.

Prakash et al. compare RePr with it in their table 3, in three rounds; here its phases are RePr's. The smallest weights
of every layer are pruned, the same share of each, classifiers included; biases and normalization are not. A pruned
weight starts again from zero. The learning rate is what the schedule says: for the last phase Han et al. take a tenth
of the first one's.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgeon.coupling.graph import Layer
from surgeon.edit.plan import Edit, Plan
from surgeon.errors import LayerError
from surgeon.measure.shares import part
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.ranges import check_share
from surgeon.methods.rounds import Rounds, phases_of
from surgeon.methods.weight_edits import set_blocks

PART = "sparse network"
"""What is trained while weights are pruned."""


@dataclass(frozen=True)
class DsdConfig(Rounds):
    """The options of `dsd`; ranges are checked when the config is made."""

    NAME: ClassVar[str] = "dsd"

    ratio: float = option(0.3, "share of each layer's weights that is pruned, between 0 and 1", paper=0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.NAME, "ratio", self.ratio)


def make_plan(inputs: Inputs, config: DsdConfig) -> Plan:
    """Return the edits that prune the smallest weights of the selected layers, or none where they are let go again.

    Raises:
        LayerError: no layer can take part.
    """
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    skipped: list[str] = []
    if inputs.phase is None or inputs.phase.holds:
        layers, skipped = prunable(inputs, config)
        for layer in layers:
            assert layer.writer is not None
            key = layer.writer.weight
            weight = inputs.tensors[key]
            count = part(config.ratio, weight.numel())
            smallest = smallest_entries(weight, count)
            edits.append(set_blocks(key, weight, layer.filters, smallest, torch.zeros(1), "some weights pruned", 1))
            figures[layer.name] = {"pruned": count, "weights": weight.numel()}
    return Plan(config.NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


def smallest_entries(weight: Tensor, count: int) -> Tensor:
    """Return the places of the entries of smallest magnitude in a flattened weight, ascending, on the CPU.

    Of entries that are equal the first are taken.

    Args:
        weight: any shape.
        count: how many, at least 1.
    """
    magnitudes = weight.detach().abs().flatten().cpu()
    limit = magnitudes.kthvalue(count).values
    chosen = magnitudes < limit
    equal = (magnitudes == limit).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().flatten()


def prunable(inputs: Inputs, config: DsdConfig) -> tuple[tuple[Layer, ...], list[str]]:
    """Return the selected layers of which weights are pruned, and why each of the others is left alone.

    Raises:
        LayerError: there is none.
    """
    found: list[Layer] = []
    skipped: list[str] = []
    for layer in inputs.layers():
        reason = _unusable(layer, inputs, config)
        if reason:
            skipped.append(f"{layer.name}: its weights are left alone: {reason}.")
        else:
            found.append(layer)
    if not found:
        why = " ".join(skipped[:3]) or "The selection holds no convolution or linear layer."
        raise LayerError(
            f"There is no layer to prune weights of: {why}", "Choose other layers; `surgeon inspect` lists them."
        )
    return tuple(found), skipped


def check(inputs: Inputs, config: DsdConfig) -> None:
    """Refuse a selection without a layer to prune; see `prunable`."""
    prunable(inputs, config)


def _unusable(layer: Layer, inputs: Inputs, config: DsdConfig) -> str:
    if layer.writer is None:
        return "they are computed from other tensors"
    if layer.writer.weight in inputs.frozen:
        return "they are frozen"
    if not part(config.ratio, inputs.tensors[layer.writer.weight].numel()):
        return f"they are too few for a share of {config.ratio}"
    return ""


DSD = Method(
    name=DsdConfig.NAME,
    paper="Han, Pool, Narang, Mao, Gong, Tang, Elsen, Vajda, Paluri, Tran, Catanzaro, Dally: DSD: Dense-Sparse-Dense"
    " Training for Deep Neural Networks, ICLR 2017",
    summary="In rounds, hold the smallest weights of every layer at zero for a while, then let them learn again.",
    config=DsdConfig,
    make_plan=make_plan,
    phases=lambda config, epochs: phases_of(config, epochs, PART),
    check=check,
)
