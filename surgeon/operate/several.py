"""What makes a run of several processes one run: equal weights, a plan that all agree on, remarks for the reader."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar, cast

from accelerate import Accelerator
from torch import Tensor, nn

from surgeon import errors
from surgeon.edit.plan import Plan
from surgeon.edit.plan_file import encode
from surgeon.edit.plan_reader import decode
from surgeon.errors import SurgeonError
from surgeon.processes import count, from_main, is_main, same_tensors
from surgeon.tuning.sharding import asked_for, sharded

T = TypeVar("T")


def placed(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Move a network to the device, give every process the main one's weights, and return it.

    With FSDP it goes to the CPU, and only divided copies of it ever leave that.
    """
    model.to("cpu" if sharded(accelerator.device) else accelerator.device)
    same_tensors(model.state_dict().values())
    return model


def main_decides(make: Callable[[], T]) -> T:
    """Return what the main process makes, to all of them; where it fails, all of them do.

    Args:
        make: only the main process calls it, so it may not wait for the others; it returns what `from_main` can send.

    Raises:
        SurgeonError: the main process has raised one, and the others raise the same; or they raise one that says so of
            anything else that it has raised.
    """
    if count() == 1:
        return make()
    if not is_main():
        made, failure = from_main((None, None))
        if failure is not None:
            kind, problem, remedy = failure
            raise getattr(errors, kind)(problem, remedy)
        # Without a failure it was made, though it may itself be None.
        return cast(T, made)
    outcome: tuple[T | None, tuple[str, str, str] | None]
    outcome = None, (SurgeonError.__name__, "The main process has failed.", "Its own message says why.")
    try:
        made = make()
        outcome = made, None
    except SurgeonError as error:
        outcome = None, (type(error).__name__, error.problem, error.remedy)
        raise
    finally:
        from_main(outcome)
    return made


def agreed(make: Callable[[], Plan]) -> Plan:
    """Return the plan that the main process makes, to all of them.

    Args:
        make: makes the plan; only the main process calls it, so it may not wait for the others.

    Raises:
        PlanError: the plan has options or figures that cannot be written down.
        SurgeonError: see `main_decides`.
    """
    if count() == 1:
        return make()
    own: list[Plan] = []

    def encoded() -> tuple[dict[str, Tensor], str]:
        own.append(make())
        return encode(own[0])

    tensors, text = main_decides(encoded)
    # The main process goes on with its own plan, whose channel groups are those of its graph.
    return own[0] if own else decode(tensors, text, "The plan of the main process", sys.maxsize)


def batch_notes(batch_size: int) -> tuple[str, ...]:
    """Return what a reader should know about the batches of a run that trains on several processes.

    Args:
        batch_size: images a batch of each process.
    """
    if count() > 1:
        together = (
            f"{count()} processes with batches of {batch_size} train as one with batches of {count() * batch_size}; "
            "the learning rate is as given."
        )
        return (together, "Each process trains a part of the network (FSDP).") if asked_for() else (together,)
    if asked_for():
        return ("There is one process, so the network is not divided (FSDP).",)
    # accelerate names a port for processes to meet at even where it starts one only, and then does not number it.
    launched = {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= os.environ.keys()
    if launched and "WORLD_SIZE" not in os.environ:
        return (
            "`accelerate launch --cpu` started one process only; on CPUs, several start with torchrun, "
            "or with `accelerate launch --multi_gpu`.",
        )
    return ()
