"""What a method is: a name, a paper, options, needs, and one pure function from measurements to a plan."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Layer, Norm
from surgeon.edit.plan import Plan, Set
from surgeon.measure.activations import ClassMeans

CLASS_MEANS = "class means"
"""What `Method.measures` names for class-representative activations of the targets' outputs."""


@dataclass(frozen=True)
class Phase:
    """A part of the fine-tuning, at whose beginning a method edits the network.

    Attributes:
        start: number of the epoch that it begins with, from 0.
        name: what is trained in it, in a word or two.
        holds: whether what the plan of this phase has set to zero stays zero until the next one.
        round: number of the round that it belongs to, from 1; 0 for what comes after the last.
    """

    start: int
    name: str
    holds: bool
    round: int


@dataclass(frozen=True)
class Sparsification:
    """Fine-tuning with a penalty `λ Σ|γ|` on BatchNorm scales, λ growing until enough channels are dead.

    Attributes:
        scales: the state-dict keys of the scales.
        dead: by group, which channels of the given tensors, by state-dict key, would start anew; empty for none.
        epochs: how long at most, at least 1, each time.
        rounds: how often.
        in_use: the utilization, by given tensors and the dead channels among them: the share of the network that is
            needed without these.
        target: what the utilization counts, parameters or FLOPs.
        below: the utilization below which it ends.
        allowed: the utilization above which the network remains larger than it is to be.
        fall: λ grows after an epoch in which the utilization did not fall by more.
        step: by how much.

    Source: Qiao et al., Neural Rejuvenation, section 3.1.
    """

    scales: frozenset[str]
    dead: Callable[[Mapping[str, Tensor]], Mapping[ChannelGroup, Tensor]]
    in_use: Callable[[Mapping[str, Tensor], Mapping[ChannelGroup, Tensor]], float]
    epochs: int
    rounds: int
    target: Literal["params", "flops"]
    below: float
    allowed: float
    fall: float
    step: float


@dataclass(frozen=True)
class Resizing:
    """What a network costs, and which of its groups can have other numbers of channels.

    Attributes:
        fixed: returns those of some groups that cannot, each with the reason, a sentence; it takes a while.
        cost: `sizes by group → (parameters, FLOPs)`; groups that are left out keep theirs.
        found: the cost of the network as the run found it.
    """

    fixed: Callable[[Collection[ChannelGroup]], Mapping[ChannelGroup, str]]
    cost: Callable[[Mapping[ChannelGroup, int]], tuple[int, int]]
    found: tuple[int, int]


@dataclass(frozen=True)
class Inputs:
    """Everything that a method may base its plan on; it is read, never written.

    Attributes:
        graph: the network's coupling graph.
        targets: the modules that the user named, in order of execution; none means the method's own choice.
        tensors: the network's tensors by state-dict key, as they are now.
        seed: seed of everything random in the plan.
        class_means: class-representative activations of the targets, for methods that measure them.
        scores: for every layer (by name) `[filters]` scores of a criterion that needs data.
        partner: the tensors of a second network of the same architecture, for methods that mix two.
        progress: share of the fine-tuning that is over, 0 … 1.
        left_alone: groups that may not be edited, each with the reason.
        frozen: state-dict keys of parameters that fine-tuning leaves as they are.
        phase: the phase of the fine-tuning that begins, for methods that have phases; None before the first.
        replaced: by state-dict key, what entries that are held at zero were before, for such methods.
        attendable: names of the layers that can be given cross-attention.
        last: no plan of the method follows this one.
        resizing: what a method has to know that changes how many channels there are; None for others.
    """

    graph: CouplingGraph
    targets: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    seed: int = 0
    class_means: Mapping[str, ClassMeans] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    partner: Mapping[str, Tensor] | None = None
    progress: float = 0.0
    left_alone: Mapping[ChannelGroup, str] = dataclasses.field(default_factory=dict)
    frozen: Collection[str] = ()
    phase: Phase | None = None
    replaced: Mapping[str, Set] = dataclasses.field(default_factory=dict)
    attendable: Collection[str] = ()
    last: bool = True
    resizing: Resizing | None = None

    def with_class_means(self, means: Mapping[str, ClassMeans]) -> "Inputs":
        """Return the same inputs with class-representative activations."""
        return dataclasses.replace(self, class_means=means)

    def with_scores(self, scores: Mapping[str, Tensor]) -> "Inputs":
        """Return the same inputs with scores of a criterion."""
        return dataclasses.replace(self, scores=scores)

    def at(self, phase: Phase, replaced: Mapping[str, Set] | None = None) -> "Inputs":
        """Return the same inputs at the beginning of a phase, with what entries were before that are held at zero."""
        return dataclasses.replace(self, phase=phase, replaced=replaced or {})

    def layers(self) -> tuple[Layer, ...]:
        """Return the convolutions and linear layers in the targets, or all of them without targets."""
        return tuple(layer for layer in self.graph.layers if self.selects(layer))

    def norms(self) -> dict[str, Norm]:
        """Return the BatchNorms in the targets by module name, or all of them without targets."""
        return {name: norm for name, norm in self.graph.norms.items() if self.includes(name)}

    def selects(self, layer: Layer) -> bool:
        """Return whether any of the modules that share a layer's weight is in the targets."""
        return any(self.includes(name) for name in layer.names)

    def includes(self, name: str) -> bool:
        """Return whether a module is one of the targets or lies in one."""
        return not self.targets or any(name == target or name.startswith(f"{target}.") for target in self.targets)


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        name: as in `--set name=value`.
        type: the field's annotation.
        default: the value without `--set`.
        paper: the paper's value, or None where the paper has none.
        help: what it does.
    """

    name: str
    type: Any
    default: Any
    paper: Any
    help: str


@dataclass(frozen=True)
class Method:
    """One published method.

    Attributes:
        name: as in `--method name`.
        paper: authors, title, venue.
        summary: one sentence on what it does.
        config: frozen dataclass of its options.
        make_plan: `(inputs, config) → Plan`; it changes nothing.
        scope: `target`: modules are operated on and fine-tuned one after the other, the deepest where none is named;
            `network`: everything named, or the whole network, at once.
        measures: `config → what it measures on labelled images`: `CLASS_MEANS`, the name of a data-driven criterion,
            or None for nothing.
        needs_partner: it mixes in a second network.
        phases: `(config, epochs of fine-tuning) → phases`, for a method that edits the network during fine-tuning
            alone: `make_plan` is asked at the beginning of each but the first.
        recalls: its plan at the end of such a phase wants to know what was replaced: `Inputs.replaced` has the values,
            and else only the places.
        told: `plan → what a user should be told of it as it is carried out`, a sentence or nothing.
        check: `(inputs, config)` raises a `SurgeonError` where nothing could be edited; for methods whose first plan is
            made late.
        sparsification: `(inputs, config) → how channels are made to die before the plan`, or None.
        holds: `config → whether some of what the plan has set to zero stays so until the end of the fine-tuning`; which
            that is, the plan says (`Set.held`).
        restructures: `config → whether a plan may give the network other numbers of channels, or other layers`.
        resized: `(inputs of the network afterwards, config, by group the channels that were added) → Plan`, what
            follows on a plan that has changed numbers of channels, and changes none; None for a method that never does.
    """

    name: str
    paper: str
    summary: str
    config: type
    make_plan: Callable[[Inputs, Any], Plan]
    scope: Literal["target", "network"] = "network"
    measures: Callable[[Any], str | None] = lambda config: None
    needs_partner: bool = False
    phases: Callable[[Any, int], tuple[Phase, ...]] | None = None
    recalls: bool = False
    told: Callable[[Plan], str] = lambda plan: ""
    check: Callable[[Inputs, Any], None] = lambda inputs, config: None
    sparsification: Callable[[Inputs, Any], Sparsification | None] = lambda inputs, config: None
    holds: Callable[[Any], bool] = lambda config: False
    restructures: Callable[[Any], bool] = lambda config: False
    resized: Callable[[Inputs, Any, Mapping[ChannelGroup, Tensor]], Plan] | None = None

    @property
    def needs_data(self) -> bool:
        """Whether the method measures something on images with its default options."""
        return self.measures(self.config()) is not None

    @property
    def options(self) -> tuple[Option, ...]:
        """The fields of the config, with the texts that stand beside them."""
        return tuple(
            Option(f.name, f.type, f.default, f.metadata.get("paper"), f.metadata["help"])
            for f in dataclasses.fields(self.config)
        )


def option(default: Any, text: str, paper: Any = None) -> Any:
    """Return a config field with its default, its help text and the paper's value."""
    return dataclasses.field(default=default, metadata={"help": text, "paper": paper})
