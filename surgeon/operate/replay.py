"""Plans that were made before: whether they fit, and what stands for the method that made them."""

import dataclasses
from typing import Any

from torch import nn

from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan
from surgeon.errors import PlanError
from surgeon.methods import make_config
from surgeon.methods.base import Method
from surgeon.operate.inputs import find_method
from surgeon.operate.stored_plan import StoredPlan

REMEDY = "Make the plan anew for this network."


def replayed(plan: Plan) -> tuple[Method, Any]:
    """Return a method that measures nothing and always decides what was decided before, and its options.

    Raises:
        OptionError: the plan is of an unknown method, or its options are unknown or out of range.
        PlanError: it is one step of a method's schedule.
    """
    method = find_method(plan.method)
    if method.phases is not None:
        raise PlanError(
            f"The plan is one step of the schedule of {plan.method}, and cannot take its place.",
            f"Name the method itself: --method {plan.method}.",
        )
    # A plan is carried out once.
    config = make_config(method, {name: value for name, value in plan.options.items() if name != "every"})
    decided = dataclasses.replace(
        method,
        make_plan=lambda inputs, config: plan,
        measures=lambda config: None,
        needs_partner=False,
        check=lambda inputs, config: None,
        # What had to die first is in the plan already.
        sparsification=lambda inputs, config: None,
    )
    return decided, config


def rehearse(model: nn.Module, stored: StoredPlan) -> None:
    """Carry a plan out on a network and take it back, so that one that does not fit is refused before any work.

    Raises:
        PlanError: the plan does not fit the network.
    """
    modules = {name for name, _ in model.named_modules()}
    if not modules.issuperset(stored.plan.targets):
        raise PlanError(f"The plan in {stored.path} is for modules that the network does not have.", REMEDY)
    tensors = model.state_dict(keep_vars=True)
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        execute(model, stored.plan)
    except (RuntimeError, IndexError, KeyError) as error:
        # A plan for another network is refused by name; only one that was made up comes this far.
        raise PlanError(f"The plan in {stored.path} cannot be carried out on this network.", REMEDY) from error
    finally:
        for key, tensor in tensors.items():
            tensor.data.copy_(before[key])
