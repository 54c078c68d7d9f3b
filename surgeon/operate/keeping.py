"""What a run keeps on the disk of its course, so that the same run can go on from there another time."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from surgeon.checkpoint.tree_file import digest
from surgeon.coupling.graph import CouplingGraph
from surgeon.edit.plan import Plan
from surgeon.edit.plan_file import encode
from surgeon.errors import OptionError
from surgeon.operate.course import Course
from surgeon.operate.inputs import Say
from surgeon.operate.record import Stage
from surgeon.operate.states import StateFolder
from surgeon.processes import count
from surgeon.tuning import Saving, State, TuningConfig
from surgeon.tuning.sharding import sharded
from surgeon.tuning.state import fitting_state


@dataclass
class Keeper:
    """Keeps the states of one run, and gives back the one that it goes on from.

    Attributes:
        folder: where.
        run: tells the run from others; see `run_digest`.
        every: updates between two states within an epoch, or None.
        state: what an earlier, interrupted run has kept; None once it was taken up, or where there is none.
        parts: what is asked for the rest of a state, by its name in it.
    """

    folder: StateFolder
    run: str
    every: int | None
    state: State | None
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def saving(self, label: str | None, epochs: int, start: float) -> Saving:
        """Return what takes the states of a fine-tuning, from whose start on the earlier state is used up.

        Args:
            label: the targets that were operated on before, in words, or None.
            epochs: how many it has.
            start: `time.perf_counter()` when it began.
        """
        self.state = None

        def write(tuning: State) -> None:
            rest = {name: part() for name, part in self.parts.items()}
            seconds = time.perf_counter() - start
            self.folder.write(self.run, {"tuning": tuning, "label": label, "of": epochs, "seconds": seconds, **rest})

        return Saving(write, self.every)


def taken(keeper: Keeper | None, part: str) -> Any:
    """Return a part of the state that a run goes on from, or None where it begins anew."""
    return None if keeper is None or keeper.state is None else keeper.state[part]


def open_keeper(path: Path | None, run: Callable[[], str], every: int | None, say: Say) -> Keeper | None:
    """Return what keeps a run's states in a folder, with the newest of them; None without a folder.

    Args:
        path: the folder, or None.
        run: returns `run_digest`.
        every: updates between two states within an epoch, at least 1, or None.
        say: is told where the run goes on, and of damaged states.

    Raises:
        OptionError: `every` is out of range, or there is no folder for it.
        OutputError: the folder keeps the state of another run, or none that is sound.
    """
    if every is not None and (path is None or every < 1):
        raise OptionError(
            f"A state every {every} updates is asked for, which cannot be.",
            "Give a number of at least 1, and a folder.",
        )
    if path is None:
        return None
    folder, name = StateFolder(path), run()
    state = folder.newest(name, say)
    if state is not None:
        say(_where(state))
    return Keeper(folder, name, every, state)


def epochs_over(state: State) -> int:
    """Return how many epochs of fine-tuning are over in a state, of all targets together."""
    return len(state["course"]["epochs"]) + len(state["tuning"]["epochs"])


def _where(state: State) -> str:
    """Return the line that says where a run goes on."""
    tuning, label = state["tuning"], state["label"]
    at = f" of {label}" if label else ""
    epochs, begun = len(tuning["epochs"]), tuning["epoch"]
    if begun is None and epochs == state["of"]:
        return f"The run continues after epoch {epochs} of {epochs}{at}."
    batch = "" if begun is None else f", after batch {begun[0]['batches']}"
    return f"The run continues at epoch {epochs + 1} of {state['of']}{at}{batch}."


def run_digest(
    model: nn.Module,
    settings: TuningConfig,
    accelerator: Accelerator,
    train: DataLoader[Any] | None,
    *,
    teacher: nn.Module | None = None,
    partner: nn.Module | None = None,
    plan: Plan | None = None,
    others: Mapping[str, Any] | None = None,
) -> str:
    """Return what tells a run from others: the SHA-256 of everything that decides how it goes.

    Args:
        model: the network as it came.
        settings: all options of fine-tuning.
        accelerator: precision and gradient accumulation.
        train: the training images; only how they are divided is looked at.
        teacher: a second network, or None.
        partner: another, or None.
        plan: a plan that is carried out, or None.
        others: anything else, which JSON or `str` can express.

    Returns:
        64 hexadecimal digits.
    """
    networks = {"model": model, "teacher": teacher, "partner": partner}
    known = {
        **{name: None if network is None else digest(dict(network.state_dict())) for name, network in networks.items()},
        "plan": None if plan is None else digest(*encode(plan)),
        "tuning": dataclasses.asdict(settings),
        "precision": accelerator.mixed_precision,
        "accumulation": accelerator.gradient_accumulation_steps,
        "processes": count(),
        "sharded": sharded(accelerator.device),
        "images": None if train is None else [len(train), train.batch_size, train.drop_last],
        "others": dict(others or {}),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def course_state(course: Course, graph: CouplingGraph | None = None) -> State:
    """Return a course as plain values; its channel groups as their places in the graph."""
    places = {} if graph is None else {group: place for place, group in enumerate(graph.groups)}
    return {
        "stages": [dataclasses.asdict(stage) for stage in course.stages],
        "epochs": course.epochs,
        "edits": course.edits,
        "groups": [places[group] for group in course.groups if group in places],
        "figures": course.figures,
        "skipped": list(course.skipped),
    }


def restored_course(state: State | None, graph: CouplingGraph | None = None) -> Course:
    """Return the course that `course_state` has written down, or a new one without it.

    Raises:
        CheckpointError: it is not the course of such a run.
    """
    if state is None:
        return Course()
    groups = () if graph is None else graph.groups
    with fitting_state():
        return Course(
            stages=[Stage(**stage) for stage in state["stages"]],
            epochs=list(state["epochs"]),
            edits=list(state["edits"]),
            groups=dict.fromkeys(groups[place] for place in state["groups"]),
            figures=dict(state["figures"]),
            skipped=dict.fromkeys(state["skipped"]),
        )
