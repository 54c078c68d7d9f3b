"""What a method is given: the targets that the user means, and what it measures on images."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.edit.resizable import unresizable
from surgeon.errors import DataError, LayerError, OptionError
from surgeon.measure.activations import class_means
from surgeon.measure.cost import cost
from surgeon.measure.scores import filter_scores
from surgeon.methods import METHODS
from surgeon.methods.base import CLASS_MEANS, Inputs, Method, Resizing
from surgeon.operate.targets import find_scope, find_targets
from surgeon.progress import Track, count_images
from surgeon.structure import attendable
from surgeon.tuning.sharding import check_enough, on_device

Batches = Iterable[tuple[Tensor, Tensor]]
Say = Callable[[str], None]


@dataclass
class Subject:
    """A network under one method: everything that its plans are made from, which stays the same but for `graph`.

    Attributes:
        model: the network.
        method: the method.
        config: its options.
        graph: the network's coupling graph.
        images: batches to measure on, or None.
        device: where to measure.
        track: is told of every batch.
        say: is told what a reader should know while it measures.
        frozen: names of parameters that fine-tuning leaves as they are.
        example: see `trace`.
        found: parameters and FLOPs of the network as the run has found it; None where its method has no use for them.
    """

    model: nn.Module
    method: Method
    config: Any
    graph: CouplingGraph
    images: Batches | None
    device: torch.device
    track: Track
    say: Say
    frozen: Collection[str] = ()
    example: Any = None
    found: tuple[int, int] | None = field(default=None, init=False)
    _fixed: dict[tuple[ChannelGroup, ...], dict[ChannelGroup, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.method.restructures(self.config):
            self.found = cost(self.graph, self.model.state_dict(keep_vars=True), {})

    def trace_anew(self) -> None:
        """Bring the graph up to the network, whose layers have other sizes now."""
        self.graph = trace(self.model, self.example)
        self._fixed.clear()

    def fixed(self, groups: Collection[ChannelGroup]) -> dict[ChannelGroup, str]:
        """Return those of some groups whose width cannot change, each with the reason; found out once."""
        asked = tuple(groups)
        if asked not in self._fixed:
            self._fixed[asked] = unresizable(self.model, self.graph, asked, self.example)
        return self._fixed[asked]


def find_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        OptionError: there is none.
    """
    if name not in METHODS:
        raise OptionError(f"There is no method '{name}'.", f"Choose one of: {', '.join(METHODS)}.")
    return METHODS[name]


def rounds(method: Method, graph: CouplingGraph, layers: Sequence[str] | str) -> tuple[tuple[str, ...], ...]:
    """Return the targets of every plan: one module at a time, in execution order, or everything at once.

    Raises:
        LayerError: a pattern matches nothing, or only frozen channels where the method moves channels.
    """
    layers = (layers,) if isinstance(layers, str) else layers
    if method.scope == "network":
        return (find_scope(graph, layers),)
    # In execution order, so that what is frozen for a later target lies before it.
    return tuple((target,) for target in sorted(find_targets(graph, layers), key=graph.outputs.order))


def measured_inputs(
    subject: Subject,
    targets: tuple[str, ...],
    seed: int,
    left_alone: Mapping[ChannelGroup, str],
    partner: Mapping[str, Tensor] | None = None,
    progress: float = 0.0,
) -> Inputs:
    """Return the inputs of one plan, with what the method measures on images.

    Raises:
        DataError: the method needs images and there are none, or their labels do not fit.
        LayerError: a target's output is not one tensor.
        OptionError: the method needs a partner and there is none.
    """
    if subject.method.needs_partner and partner is None:
        raise OptionError(
            f"The method {subject.method.name} mixes two networks and was given one.", "Name the other with --partner."
        )
    return _measured(subject, plain_inputs(subject, targets, seed, left_alone, partner, progress))


def plain_inputs(
    subject: Subject,
    targets: tuple[str, ...],
    seed: int,
    left_alone: Mapping[ChannelGroup, str],
    partner: Mapping[str, Tensor] | None = None,
    progress: float = 0.0,
    *,
    last: bool = True,
) -> Inputs:
    """Return the inputs of one plan that measures nothing."""
    restructures = subject.method.restructures(subject.config)
    return Inputs(
        subject.graph,
        targets,
        {key: tensor.detach() for key, tensor in subject.model.state_dict().items()},
        seed,
        partner=partner,
        progress=progress,
        left_alone=left_alone,
        frozen=subject.frozen,
        attendable=_attendable(subject.model) if restructures else (),
        last=last,
        resizing=_resizing(subject) if restructures else None,
    )


def _attendable(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, module in model.named_modules() if attendable(module))


def _resizing(subject: Subject) -> Resizing:
    assert subject.found is not None
    tensors = subject.model.state_dict(keep_vars=True)
    return Resizing(subject.fixed, partial(cost, subject.graph, tensors), subject.found)


def _measured(subject: Subject, inputs: Inputs) -> Inputs:
    wanted = subject.method.measures(subject.config)
    if wanted is None:
        return inputs
    if subject.images is None:
        raise DataError(
            f"The method {subject.method.name} measures {wanted} and needs images.",
            "Give some: --data, or data= and calibration= in Python.",
        )
    if wanted != CLASS_MEANS:
        # A linear layer is meant only where it is named: each of its filters would cost the oracle an evaluation.
        layers = [layer for layer in inputs.layers() if layer.convolution or set(layer.names) & set(inputs.targets)]
        with on_device(subject.model, subject.device) as model:
            check_enough(model, count_images(subject.images))
            scores = filter_scores(
                model, layers, wanted, subject.images, device=subject.device, track=subject.track, say=subject.say
            )
        return inputs.with_scores(scores)
    for target in inputs.targets:
        if subject.graph.outputs.tensors(target) != 1:
            raise LayerError(
                f"The module '{target}' hands several tensors on, so its output's channels are not those of one.",
                "Name one of the modules in it.",
            )
    classes = num_outputs(subject.model)
    with on_device(subject.model, subject.device) as model:
        check_enough(model, count_images(subject.images))
        means = class_means(model, inputs.targets, subject.images, classes, device=subject.device, track=subject.track)
    return inputs.with_class_means(means)


def num_outputs(model: nn.Module) -> int:
    """Return the number of classes of a classifier: its attribute, or the rows of its last layer with weights.

    Raises:
        OptionError: the attribute is 0, which is timm's word for a classifier that was taken off, or there is none and
            that layer is no linear one and no 1x1 convolution.
    """
    known = getattr(model, "num_classes", None)
    if isinstance(known, int) and known > 0:
        return known
    last = next((one for one in reversed(list(model.modules())) if isinstance(one, (nn.Linear, nn.Conv2d))), None)
    if known != 0 and isinstance(last, nn.Linear):
        return last.out_features
    if known != 0 and isinstance(last, nn.Conv2d) and max(last.kernel_size) == 1:
        return last.out_channels
    raise OptionError(
        "The network has no classifier that is known: its last layer with weights is none.",
        "Give a checkpoint with its classifier, or the network an attribute num_classes.",
    )
