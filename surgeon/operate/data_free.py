"""Whether a job needs images at all: everything that neither measures nor trains works on the weights alone."""

from collections.abc import Sequence

from torch import nn

from surgeon.coupling.graph import CouplingGraph
from surgeon.edit.plan import Edit, Reorder, Rescale
from surgeon.methods import make_config
from surgeon.operate.inputs import find_method
from surgeon.operate.job import Job
from surgeon.operate.plan import plan
from surgeon.tuning.modes import has_batch_norm


def moves_values(edits: Sequence[Edit]) -> bool:
    """Return whether edits change the function: what keeps it keeps the BatchNorm statistics."""
    return any(not isinstance(edit, (Reorder, Rescale)) for edit in edits)


def surely_needs_images(job: Job, model: nn.Module, only_plan: bool) -> bool | None:
    """Return whether a job measures, trains or recalibrates: everything else works on the weights alone.

    Args:
        job: what to do.
        model: its network, as it came.
        only_plan: the job is only planned.

    Returns:
        None where the plan decides, see `plan_needs_images`.
    """
    if job.method is None:
        return True
    method = find_method(job.method)
    if job.plan is None and method.measures(make_config(method, job.options)) is not None:
        return True
    if only_plan or job.epochs:
        return not only_plan
    return None if job.recalibrate and has_batch_norm(model) else False


def plan_needs_images(job: Job, model: nn.Module, graph: CouplingGraph | None, partner: nn.Module | None) -> bool:
    """Return whether BatchNorm's statistics have to be measured anew after the job's plan, which needs no images.

    Args:
        job: what to do.
        model: its network, as it came.
        graph: the network's coupling graph; None where nothing is operated on.
        partner: the second network, or None.
    """
    assert job.method is not None
    if job.plan is not None:
        return moves_values(job.plan.plan.edits)
    made = plan(
        model,
        job.method,
        job.layers,
        seed=job.seed,
        example_input=job.example(model),
        graph=graph,
        partner=partner,
        **job.options,
    )
    return moves_values(made.edits)
