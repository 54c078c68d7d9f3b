"""`repr`: drop the filters that overlap most, train without them, start them anew in free directions (Prakash et al.).

What the paper leaves open, or surgeon settles:

- Iterations are epochs, as its figure 1 shows.
- The ranking is that of `reinit`: over all convolutions of the selection (and linear layers that are named), never
  those that answer. No layer loses more than `max_per_layer` of its filters.
- A dropped filter is its weights, its bias, and scale and shift of the BatchNorm right behind it.
- A new filter has the mean norm of the layer's kept filters times `scale`; its bias starts at zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from surgeon.coupling.graph import Layer, Norm
from surgeon.edit.plan import Edit, Plan, Set
from surgeon.errors import OptionError
from surgeon.measure.filters import filter_count, filter_rows, is_depthwise, own_norms
from surgeon.measure.shares import part
from surgeon.methods.base import Inputs, Method, option
from surgeon.methods.orthogonal import orthogonal_filters
from surgeon.methods.ranges import check_share
from surgeon.methods.ranking import CriterionName, candidates, check_ratio, choose, measured, rank, shared_norm
from surgeon.methods.rounds import Rounds, phases_of
from surgeon.methods.weight_edits import filter_blocks, set_blocks, side_by_side

PART = "sub-network"
"""What is trained while filters are dropped."""

MOST = 0.5
"""A layer that loses a larger share of its filters is named to the user."""
SHOWN = 4
"""How many such layers are."""
FREE = 1e-3
"""A direction of a larger cosine with filters or its own past is not free, whatever the weights' precision."""


@dataclass(frozen=True)
class ReprConfig(Rounds):
    """The options of `repr`; ranges are checked when the config is made."""

    NAME: ClassVar[str] = "repr"

    criterion: CriterionName = option(
        "ortho",
        "what tells weak filters: see reinit; overlap with the others of the layer (ortho) is the paper's own, and the"
        " drop in accuracy without the filter (oracle) what it compares with",
        paper="ortho",
    )
    ratio: float = option(
        0.3, "share of the filters of all selected layers that are dropped, between 0 and 1", paper=0.3
    )
    max_per_layer: float = option(0.9, "largest share of one layer's filters, between 0 and 1")
    scale: float = option(
        1.0,
        "norm of a new filter as a share of the mean norm of the layer's kept ones, above 0 and at most 10; smaller"
        " where large networks collapse",
        paper="relatively small in large networks",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ratio", "max_per_layer"):
            check_share(self.NAME, name, getattr(self, name))
        check_ratio(self.NAME, self.ratio, self.max_per_layer)
        if not 0 < self.scale <= 10:
            raise OptionError(f"The option scale of repr is {self.scale}.", "Give a number above 0 and at most 10.")


def make_plan(inputs: Inputs, config: ReprConfig) -> Plan:
    """Return what happens as a phase begins: filters are dropped, or the dropped ones start anew.

    Before the first phase it is what would be dropped now.

    Raises:
        LayerError: no layer is left to take part.
        DataError: the criterion needs images and nothing was measured.
    """
    if inputs.phase is None or inputs.phase.holds:
        return drop(inputs, config)
    return renew(inputs, config)


def check(inputs: Inputs, config: ReprConfig) -> None:
    """Refuse a selection of which nothing would be dropped.

    Raises:
        LayerError: no layer can take part.
        OptionError: the ratio is not one filter.
    """
    layers, _ = candidates(inputs, config.criterion)
    counts = [filter_count(layer, inputs.tensors) for layer in layers]
    free = sum(part(config.max_per_layer, count) for count in counts)
    if min(part(config.ratio, sum(counts)), free) < 1:
        raise OptionError(
            f"A ratio of {config.ratio} of {sum(counts)} filters, at most {config.max_per_layer} of a layer, is none.",
            "Raise ratio or max_per_layer, or select more layers.",
        )


def drop(inputs: Inputs, config: ReprConfig) -> Plan:
    """Return the edits that set the weakest filters to zero, with their BatchNorm's scale and shift.

    Source: algorithm 1, lines 5 and 6.
    """
    ranking = rank(inputs, config.criterion, torch.Generator().manual_seed(inputs.seed))
    weakest = choose(ranking.strengths, config.ratio, config.max_per_layer)
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    skipped = ranking.skipped
    for layer in ranking.layers:
        chosen, norm = weakest[layer.name], ranking.norms.get(layer.name)
        if chosen.numel():
            assert layer.writer is not None
            weight = inputs.tensors[layer.writer.weight]
            zeros = torch.zeros(1)
            edits.append(_set_filters(layer, weight, chosen, zeros, "dropped"))
            # Without a scale, the mean alone could still answer.
            own = () if norm is None else (norm.weight, norm.bias) if norm.weight else (norm.running_mean,)
            vectors = (layer.writer.bias, *own)
            edits += [Set(key, chosen, zeros, "dropped") for key in vectors if key is not None]
            skipped += shared_norm(layer, norm) or _normalized_later(inputs, layer)
        figures[layer.name] = {"dropped": chosen.numel(), "filters": ranking.strengths[layer.name].numel()}
    dropped, wanted = sum(len(chosen) for chosen in weakest.values()), part(config.ratio, ranking.filters)
    if dropped < wanted:
        skipped.append(
            f"{wanted - dropped} of the {wanted} filters that ratio asks for are kept: no layer may lose more."
        )
    return _plan(inputs, config, edits, figures, skipped)


def renew(inputs: Inputs, config: ReprConfig) -> Plan:
    """Return the edits that give dropped filters directions of their own, and a BatchNorm that starts anew.

    Source: algorithm 1, lines 10 to 12.
    """
    norms = own_norms(inputs.graph.layers)
    generator = torch.Generator().manual_seed(inputs.seed)
    edits: list[Edit] = []
    figures: dict[str, Any] = {}
    for layer in inputs.graph.layers:
        before = None if layer.writer is None else inputs.replaced.get(layer.writer.weight)
        if layer.writer is None or before is None:
            continue
        weight = inputs.tensors[layer.writer.weight]
        filters, past = _dropped(layer, weight, before)
        rows = filter_rows(weight, layer).cpu().double()
        staying = torch.ones(len(rows), dtype=torch.bool).index_fill(0, filters, False)
        kept = rows[staying]
        directions = orthogonal_filters(kept, past, generator)
        # As the weight will hold them.
        new = (directions * config.scale * _mean_norm(kept, past)).to(weight.dtype).double()
        edits.append(_set_filters(layer, weight, filters, new, "re-initialized"))
        edits += _fresh_norm(norms.get(layer.name), filters)
        figures[layer.name] = {
            "renewed": filters.numel(),
            "norm": float(new.norm(dim=1).mean()),
            "cosine_to_kept": _largest(normalize(new, dim=1) @ normalize(kept, dim=1).T),
            "cosine_to_past": _largest((normalize(new, dim=1) * normalize(past, dim=1)).sum(1)),
        }
    return _plan(inputs, config, edits, figures, [])


def _normalized_later(inputs: Inputs, layer: Layer) -> list[str]:
    """Return the sentence that shifts behind dropped filters answer in their place, where there are any."""
    assert layer.writer is not None
    depthwise = {
        other.writer.weight
        for other in inputs.graph.layers
        if other.writer is not None and is_depthwise(other, inputs.tensors)
    }
    for group in inputs.graph.groups:
        if layer.writer.weight not in {member.tensor for member in group.members if member.role == "producer"}:
            continue
        # What belongs to the layers that write the same channels is not behind them; depthwise ones are.
        beside = [writer for writer in group.writers if writer.weight not in depthwise]
        own = {key for writer in beside for key in (writer.bias, writer.norm.bias if writer.norm else None)}
        later = {m.tensor for m in group.members if m.role == "affine" and m.tensor.endswith("bias")} - own
        if later:
            shifts = ", ".join(sorted(later))
            return [f"{shifts}: behind dropped filters of {layer.name}, to answer in their place."]
    return []


def told(plan: Plan) -> str:
    """Return where most of a layer is dropped, or how far from free the directions are in which filters start anew."""
    if any("dropped" in figures for figures in plan.figures.values()):
        shares = {name: figures["dropped"] / figures["filters"] for name, figures in plan.figures.items()}
        worst = sorted((name for name in shares if shares[name] > MOST), key=lambda name: -shares[name])
        if not worst:
            return ""
        named = ", ".join(f"{name} ({_of(plan.figures[name])})" for name in worst[:SHOWN])
        more = f" and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
        return f"Most of a layer's filters are dropped in {named}{more}; --max-per-layer bounds that."
    cosines = {name: max(one["cosine_to_kept"], one["cosine_to_past"]) for name, one in plan.figures.items()}
    covered = [name for name, cosine in cosines.items() if cosine > FREE]
    if not covered:
        return ""
    most = max(covered, key=lambda name: cosines[name])
    return (
        f"In {len(covered)} of {len(cosines)} layers the kept filters leave no direction free, and the least covered "
        f"ones were taken: the largest cosine is {cosines[most]:.2f}, in {most}."
    )


def _of(figures: Mapping[str, int]) -> str:
    return f"{figures['dropped']} of {figures['filters']}"


def _set_filters(layer: Layer, weight: Tensor, filters: Tensor, values: Tensor, what: str) -> Set:
    assert layer.writer is not None
    blocks = filter_blocks(layer, weight)[filters]
    return set_blocks(
        layer.writer.weight, weight, layer.filters, blocks, values, what, side_by_side(weight, layer.filters)
    )  # fmt: skip


def _dropped(layer: Layer, weight: Tensor, before: Set) -> tuple[Tensor, Tensor]:
    """Return the numbers of the dropped filters, and float64 `[filters, weights of one]`, what they were before."""
    own = filter_blocks(layer, weight)
    blocks = before.blocks.long().view(-1, own.shape[1])
    owner = torch.empty(own.numel(), dtype=torch.int64)
    owner[own[:, 0]] = torch.arange(len(own))
    return owner[blocks[:, 0]], before.values.view(len(blocks), -1).double()


def _mean_norm(kept: Tensor, past: Tensor) -> float:
    """Return the mean norm of the kept filters, or of what was dropped where they are all zero or there are none."""
    for rows in (kept, past):
        norm = float(rows.norm(dim=1).mean()) if len(rows) else 0.0
        if norm > 0:
            return norm
    return 1.0


def _fresh_norm(norm: Norm | None, filters: Tensor) -> list[Edit]:
    """Return the edits that start a layer's own BatchNorm anew: γ = 1, β = 0, mean 0, variance 1."""
    if norm is None:
        return []
    values = {norm.weight: 1.0, norm.bias: 0.0, norm.running_mean: 0.0, norm.running_var: 1.0}
    return [
        Set(key, filters, torch.full((1,), value), "re-initialized") for key, value in values.items() if key is not None
    ]


def _largest(cosines: Tensor) -> float:
    return float(cosines.abs().max()) if cosines.numel() else 0.0


def _plan(
    inputs: Inputs, config: ReprConfig, edits: list[Edit], figures: Mapping[str, Any], skipped: list[str]
) -> Plan:
    return Plan(config.NAME, dict(vars(config)), inputs.targets, tuple(edits), figures, tuple(skipped))


REPR = Method(
    name=ReprConfig.NAME,
    paper="Prakash, Storer, Florencio, Zhang: RePr: Improved Training of Convolutional Filters, CVPR 2019",
    summary="In rounds, drop the filters that overlap most, train without them, and start them in free directions.",
    config=ReprConfig,
    make_plan=make_plan,
    measures=lambda config: measured(config.criterion),
    phases=lambda config, epochs: phases_of(config, epochs, PART),
    recalls=True,
    told=told,
    check=check,
)
