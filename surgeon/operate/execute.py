"""Carry out a plan on a network in memory, with everything that its method lets follow on it."""

from typing import Any

import torch
from torch import nn

from surgeon.coupling.trace import trace
from surgeon.edit import execute as edits
from surgeon.edit.plan import Plan, Resize
from surgeon.methods import METHODS
from surgeon.operate.carrying import carried_out
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject
from surgeon.operate.replay import replayed
from surgeon.progress import no_progress


def execute(model: nn.Module, plan: Plan, *, example_input: Any = None) -> None:
    """Carry out a plan in place; where a method has given channels other widths, with what follows on that.

    Everything is checked before the first tensor is written, so that a plan for another network changes nothing. New
    widths are proved on copies of the network first, and what their method makes of the new channels (rescaling,
    weights at zero, cross-attention) is worked out on the network that comes of them, as by `apply`.

    Args:
        model: the network that the plan was made for.
        plan: edits, carried out in order.
        example_input: see `trace`; only plans of other widths need it.

    Raises:
        PlanError: the plan names a tensor that the network lacks or that is too small for it, or layers whose sizes
            cannot follow.
        TraceError: the plan has other widths, and the network cannot be traced.
    """
    seed = next((edit.seed for edit in plan.edits if isinstance(edit, Resize)), None)
    if seed is None or plan.method not in METHODS:
        edits.execute(model, plan)
        return
    method, config = replayed(plan)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    graph = trace(model, example_input)
    subject = Subject(
        model, method, config, graph, None, device, no_progress, lambda text: None, example=example_input
    )  # fmt: skip
    carried_out(subject, plan, Course(), seed)
