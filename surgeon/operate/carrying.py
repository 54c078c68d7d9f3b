"""A plan is carried out; where it changes widths, with what follows on that in the network that comes of it."""

import dataclasses
from typing import Any

from torch import nn
from torch.optim import Optimizer

from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Resize
from surgeon.edit.resize import renumbered
from surgeon.edit.resized import prove_resize
from surgeon.operate.course import Course
from surgeon.operate.inputs import Subject, plain_inputs
from surgeon.operate.moments import carry, forget
from surgeon.structure import structure_of

OTHER_NETWORK = (
    "The result is another network than its architecture's: surgeon loads it (surgeon.load), and what else knows the "
    "architecture does not; `surgeon convert` brings it to where surgeon is not."
)


def carried_out(
    subject: Subject, made: Plan, course: Course, seed: int, optimizer: Optimizer | None = None, *, last: bool = True
) -> Plan:
    """Carry out a plan, and forget what the optimizer remembers of what is edited.

    New widths are proved first, on copies of the network. The network's graph is traced anew then, and the method asked
    for what the new channels start with.

    Args:
        subject: the network under its method.
        made: the plan.
        course: what has happened so far; where the network becomes another one, that is remarked.
        seed: of what is random in what follows.
        optimizer: that trains the network; None before the fine-tuning.
        last: no plan of the method follows this one.

    Returns:
        All that was done.

    Raises:
        PlanError: the plan does not fit, or new widths do not do what they should.
    """
    model = subject.model
    known = _build(model)
    done = made
    for edit in made.edits:
        if isinstance(edit, Resize):
            done = _resized(subject, made, edit, seed, optimizer, last=last)
            break
    else:
        execute(model, made)
        _forget(optimizer, model, made)
    if structure_of(model).attention != known[0]:
        # The graph that who goes on from a state of the run has.
        subject.trace_anew()
    if _build(model) != known:
        course.restructured()
        course.remark(OTHER_NETWORK)
    return done


def _build(model: nn.Module) -> tuple[Any, ...]:
    """Return what tells whether a network loads into what it was made as."""
    return structure_of(model).attention, {key: tensor.shape for key, tensor in model.state_dict().items()}


def _resized(subject: Subject, made: Plan, edit: Resize, seed: int, optimizer: Optimizer | None, *, last: bool) -> Plan:
    model, method = subject.model, subject.method
    assert method.resized is not None
    prove_resize(model, edit, subject.example)
    before = {name: parameter.shape for name, parameter in model.named_parameters()}
    execute(model, made)
    if optimizer is not None:
        carry(optimizer, model, edit, before)
    subject.trace_anew()
    inputs = plain_inputs(subject, made.targets, seed, {}, last=last)
    follows = method.resized(inputs, subject.config, renumbered(edit, subject.graph))
    execute(model, follows)
    _forget(optimizer, model, follows)
    figures: dict[str, Any] = {**made.figures, **follows.figures}
    return dataclasses.replace(
        made, edits=(*made.edits, *follows.edits), figures=figures, skipped=(*made.skipped, *follows.skipped)
    )


def _forget(optimizer: Optimizer | None, model: nn.Module, made: Plan) -> None:
    if optimizer is not None:
        forget(optimizer, model, made)
