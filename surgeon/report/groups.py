"""Runs that differ in their seeds only, put together."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.report.records import EpochFigures, Run, StageFigures
from surgeon.report.untrusted import in_folder

PER_CENT = 100.0
Figured = StageFigures | EpochFigures


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with several seeds.

    Attributes:
        label: what tells it from the other groups.
        runs: the runs, at least one.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def is_control(self) -> bool:
        """Whether nothing was operated on."""
        return self.runs[0].is_control


@dataclass(frozen=True)
class Measure:
    """The figure by which runs are compared.

    Attributes:
        name: with its unit, for an axis.
        of: gives it, of a stage or of an epoch.
    """

    name: str
    of: Callable[[Figured], float | None]


@dataclass(frozen=True)
class Reach:
    """Figures of several seeds: their mean, the least and the largest, and how many there are."""

    mean: float
    low: float
    high: float
    count: int


def grouped(runs: Sequence[Run]) -> tuple[Group, ...]:
    """Return the runs in groups that differ in the seed only, the controls last.

    The runs of a comparison are together by their name there, and never with those of another comparison.
    """
    found: dict[tuple[str, Path | None], list[Run]] = {}
    for run in runs:
        found.setdefault((run.name or repr(_settings(run)), run.comparison), []).append(run)
    several = sorted(found.values(), key=lambda members: members[0].is_control)
    names = [_name(members[0]) for members in several]
    labels = [
        name if names.count(name) == 1 else f"{name} ({_difference(members[0], several)})"
        for name, members in zip(names, several, strict=True)
    ]
    return tuple(Group(label, tuple(members)) for label, members in zip(labels, several, strict=True))


def control_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the control of a run: one of the same network, of its own comparison and seed if there is such a one."""
    controls = [one for one in runs if one.is_control and one.sha256 is not None and one.sha256 == run.sha256]
    return min(controls, key=lambda one: (one.comparison != run.comparison, one.seed != run.seed), default=None)


def best_measure(runs: Sequence[Run]) -> Measure | None:
    """Return what the runs can be compared by: top-1, another task's first figure, or agreement."""
    figured: list[Figured] = []
    for run in runs:
        figured += [*run.stages, *run.epochs]
    if any(figures.top1 is not None for figures in figured):
        return Measure("top-1 (%)", lambda figures: figures.top1)
    names = [name for figures in figured for name in figures.metrics if name not in ("agreement", "drift")]
    if names:
        name = names[0]
        return Measure(name, lambda figures: figures.metrics.get(name))
    if any(_agreement(figures) is not None for figures in figured):
        return Measure("agreement with the original (%)", _agreement)
    return None


def reach(values: Sequence[float | None]) -> Reach | None:
    """Return how far the figures that are there reach; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Reach(statistics.fmean(known), min(known), max(known), len(known))


def _agreement(figures: Figured) -> float | None:
    share = figures.agreement if isinstance(figures, StageFigures) else figures.metrics.get("agreement")
    return None if share is None else PER_CENT * share


def _settings(run: Run) -> dict[str, Any]:
    """Return what two runs of one group have in common."""
    recipe = {name: value for name, value in run.recipe.items() if name not in ("seed", "workers", "device-data")}
    tuning = {name: value for name, value in run.tuning.items() if name != "seed"}
    return {
        "method": run.method,
        **{f"option {name}": value for name, value in run.options.items()},
        "targets": run.targets,
        **tuning,
        **recipe,
        "arch": run.arch,
        "checkpoint": run.sha256,
    }


def _name(run: Run) -> str:
    if run.is_control:
        return f"{run.method} (control)"
    return run.name or run.method


def _difference(run: Run, groups: Sequence[Sequence[Run]]) -> str:
    """Return the settings that tell a run from those of the same method, or else its file's or comparison's name."""
    own = _settings(run)
    alike = [members[0] for members in groups if _name(members[0]) == _name(run)]
    if run.comparison is not None and len({other.comparison for other in alike}) > 1:
        return in_folder(run.comparison)
    others = [_settings(other) for other in alike]
    differing = [name for name, value in own.items() if any(other.get(name) != value for other in others)]
    told = ", ".join(f"{name.removeprefix('option ')} {own[name]}" for name in differing[:2])
    return told or run.title
