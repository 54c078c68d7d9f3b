"""What a method would do to a network in memory; nothing is changed."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.coupling.trace import trace
from surgeon.edit.plan import Plan
from surgeon.memory import named_shortage
from surgeon.methods import make_config
from surgeon.operate.course import Course, left_alone, round_seed
from surgeon.operate.inputs import Batches, Say, Subject, find_method, measured_inputs, rounds
from surgeon.operate.several import agreed
from surgeon.operate.soundness import check_sound
from surgeon.progress import Track, no_progress


@named_shortage()
def plan(
    model: nn.Module,
    method: str,
    layers: Sequence[str] | str = (),
    data: Batches | None = None,
    *,
    seed: int = 0,
    example_input: Any = None,
    graph: CouplingGraph | None = None,
    partner: nn.Module | None = None,
    frozen: Collection[str] = (),
    track: Track = no_progress,
    say: Say = lambda text: None,
    **options: Any,
) -> Plan:
    """Return what a method would do to a network; nothing is changed.

    Args:
        model: the network.
        method: a name in the table of methods, e.g. `sofm`.
        layers: module names and globs; none means the method's own choice: the deepest module with free channels, or
            the whole network.
        data: batches of `(images float32 [B, C, H, W], labels int64 [B])`, for methods that measure on them.
        seed: seed of everything random in the plan.
        example_input: see `trace`.
        graph: the network's coupling graph; traced where there is none.
        partner: a second network of the same architecture, for methods that mix two.
        frozen: names of parameters that fine-tuning will leave as they are; `reinit`, `repr` and `dsd` leave them too.
        track: is told of every batch.
        say: is told how long a slow measurement will take.
        options: the method's options.

    Raises:
        OptionError: the method or an option is unknown or out of range, or a partner is missing.
        LayerError: a pattern matches nothing, or only frozen channels.
        TraceError: the network cannot be traced.
        DataError: the method needs images and there are none, or their labels do not fit.
        CheckpointError: weights or running statistics are NaN or infinite, or variances below zero.
        PlanError: the partner's tensors do not fit.
        MemoryShortageError: memory ran out.
    """
    chosen = find_method(method)
    config = make_config(chosen, options)
    check_sound(model)
    graph = graph or trace(model, example_input)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    subject = Subject(model, chosen, config, graph, data, device, track, say, frozen, example_input)
    course = Course()
    done: list[tuple[str, ...]] = []
    for place, targets in enumerate(rounds(chosen, graph, layers)):
        alone = left_alone(graph, done, targets, course)
        inputs = measured_inputs(subject, targets, round_seed(seed, place), alone, partner_tensors(partner))
        course.note(agreed(partial(chosen.make_plan, inputs, config)))
        done.append(targets)
    named = tuple(target for targets in done for target in targets)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return Plan(
        chosen.name,
        dict(vars(config)),
        named,
        tuple(course.plan_edits),
        course.figures,
        tuple(course.skipped),
        shapes,
    )


def partner_tensors(partner: nn.Module | None) -> Mapping[str, torch.Tensor] | None:
    """Return the tensors of the second network, if there is one."""
    return None if partner is None else partner.state_dict()
