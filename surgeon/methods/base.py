"""What a method is: a name, a paper, options, needs, and one pure function from measurements to a plan."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.plan import Plan
from surgeon.measure.activations import ClassMeans


@dataclass(frozen=True)
class Inputs:
    """Everything that a method may base its plan on.

    Attributes:
        graph: the network's coupling graph.
        targets: modules whose output channels are to be edited, in order.
        statistics: class-representative activations of the targets, for methods that need data.
        seed: seed of everything random in the plan.
        left_alone: groups that may not be edited, each with the reason.
    """

    graph: CouplingGraph
    targets: tuple[str, ...]
    statistics: Mapping[str, ClassMeans]
    seed: int
    left_alone: Mapping[ChannelGroup, str] = dataclasses.field(default_factory=dict)


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
        needs_data: it measures activations on labelled images.
        needs_training: the network should be fine-tuned after it.
        make_plan: `(inputs, config) → Plan`; it changes nothing.
    """

    name: str
    paper: str
    summary: str
    config: type
    needs_data: bool
    needs_training: bool
    make_plan: Callable[[Inputs, Any], Plan]

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
