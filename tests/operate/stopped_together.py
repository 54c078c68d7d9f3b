"""What two processes do when one of them is asked to stop, fails, or finds no state on its disk; they decide alike."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from two_stages import CLASSES, Two

import surgeon
from surgeon.checkpoint.tree_file import read_tree
from surgeon.errors import OptionError, PlanError, SurgeonError
from surgeon.operate.several import agreed
from surgeon.processes import index, is_main
from surgeon.tuning import TuningConfig


class Varied(Dataset[Any]):
    """Images that are nothing but what the process that reads them draws."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1, 8, 8), place % CLASSES


class Idle(Two):
    """Has a layer that nothing goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


DRAWN: list[float] = []


def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    DRAWN.append(batch[0][0, 0, 0, 0].item())
    return functional.cross_entropy(model(batch[0]), batch[1])


def run(state: Path | None, stop_in: str | None = None, model: type[nn.Module] = Two) -> dict[str, torch.Tensor]:
    """Fine-tune, interrupted in the second batch of a pass, and return the weights."""
    passes: list[str] = []

    def track(batches: Any, description: str, *given: Any, **others: Any) -> Iterator[Any]:
        passes.append(description)
        for number, batch in enumerate(batches):
            # The first evaluation is that of the network as it came, when nothing is worth keeping yet.
            stops = description == stop_in and (len(passes) > 1)
            if stops and number == 1 and not is_main():
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    torch.manual_seed(3)
    network = model()
    order = torch.Generator()
    train = DataLoader(Varied(), batch_size=2, shuffle=True, generator=order, num_workers=1)
    val = DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1, 8, 8), torch.arange(2)), batch_size=1)
    surgeon.finetune(
        network, train, val=val, loss=loss, epochs=2, tuning=TuningConfig(lr=0.05), track=track, state=state
    )
    return network.state_dict()


def outcome(work: Callable[[], Any], *kinds: type[BaseException]) -> str:
    try:
        work()
    except kinds as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def stop_all() -> dict[str, Any]:
    """Return what came of it in this process."""
    found: dict[str, Any] = {}
    whole = run(None)
    found["drawn"] = list(DRAWN)
    for stop_in in ("epoch 2/2", "evaluating"):
        # Only the main process's disk has what it has written.
        folder = Path(tempfile.mkdtemp())
        ended = outcome(partial(run, folder, stop_in), KeyboardInterrupt)
        states = [read_tree(path)["tuning"] for path in sorted(folder.iterdir())]
        places = [state["epoch"] and [own["batches"] for own in state["epoch"]] for state in states]
        end = run(folder)
        found[stop_in] = ended.split(":")[0], places, all(torch.equal(whole[key], end[key]) for key in whole)
    found["idle"] = outcome(lambda: run(None, model=Idle), OptionError)
    found["refused"] = outcome(lambda: agreed(refuse), PlanError)
    found["failed"] = outcome(lambda: agreed(fail), SurgeonError, RuntimeError)
    return found


def refuse() -> Any:
    raise PlanError(f"Process {index()} has no plan.", "Make one.")


def fail() -> Any:
    raise RuntimeError("unexpected")
