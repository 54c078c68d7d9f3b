"""What tells a run from others, so that it goes on from its own state alone: what must be the same, what may change."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from surgeon.checkpoint.tree_file import digest
from surgeon.edit.plan import Plan
from surgeon.edit.plan_file import told_apart
from surgeon.processes import count
from surgeon.structure import structure_of
from surgeon.tuning import TuningConfig
from surgeon.tuning.config import CHANGEABLE
from surgeon.tuning.sharding import sharded

LIBRARIES = ("surgeon", "torch", "timm")
"""Packages that the numbers of a run depend on."""


MOST_DIFFERENCES = 4
LONGEST = 40
"""What a message names, and characters of each."""


@dataclass(frozen=True)
class Identity:
    """What tells a run from others.

    Attributes:
        digest: of everything that has to be the same, 64 hexadecimal digits.
        terms: what a run may go on with another value of, where that is asked for: by its name.
        fixed: everything that has to be the same, by its name, as text.
    """

    digest: str
    terms: Mapping[str, Any]
    fixed: Mapping[str, str]

    def changes(self, earlier: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in words which terms are others than they were.

        Args:
            earlier: the terms of a state.
        """
        names = dict.fromkeys((*self.terms, *earlier))
        return tuple(
            f"{name.replace('_', '-')} {_shown(earlier.get(name))} (now {_shown(self.terms.get(name))})"
            for name in names
            if earlier.get(name) != self.terms.get(name)
        )

    def differences(self, earlier: Mapping[str, str]) -> str:
        """Return in words what has to be the same and is not.

        Args:
            earlier: `fixed` of a state.
        """
        names = [name for name in dict.fromkeys((*self.fixed, *earlier)) if earlier.get(name) != self.fixed.get(name)]
        words = [f"{name} {earlier.get(name, 'none')} (now {self.fixed.get(name, 'none')})" for name in names]
        return ", ".join(words[:MOST_DIFFERENCES]) + (", …" if len(words) > MOST_DIFFERENCES else "")


def run_identity(
    model: nn.Module,
    settings: TuningConfig,
    accelerator: Accelerator,
    train: DataLoader[Any] | None,
    *,
    teacher: nn.Module | None = None,
    partner: nn.Module | None = None,
    plan: Plan | None = None,
    others: Mapping[str, Any] | None = None,
) -> Identity:
    """Return what tells a run from others.

    Args:
        model: the network as it came.
        settings: all options of fine-tuning.
        accelerator: device, precision and gradient accumulation.
        train: the training images; only how they are divided is looked at.
        teacher: a second network, or None.
        partner: another, or None.
        plan: a plan that is carried out, or None.
        others: anything else, which JSON or `str` can express.
    """
    networks = {"model": model, "teacher": teacher, "partner": partner}
    structures = {name: None if one is None else _structure(one) for name, one in networks.items()}
    options = dataclasses.asdict(settings)
    terms = {
        **{name: options.pop(name) for name in CHANGEABLE},
        "mixed_precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
        "processes": count(),
        "batch_size": None if train is None else train.batch_size,
        "fsdp": sharded(accelerator.device),
        **{name: metadata.version(name) for name in LIBRARIES},
    }
    known = {
        **{name: None if network is None else digest(dict(network.state_dict())) for name, network in networks.items()},
        # Of networks as their builders make them it is left out, as it was before there were others.
        **{f"{name} structure": structure for name, structure in structures.items() if structure},
        "plan": None if plan is None else digest(*told_apart(plan)),
        "tuning": options,
        "accumulation": accelerator.gradient_accumulation_steps,
        "images": None if train is None else _division(train),
        "others": dict(others or {}),
    }
    text = json.dumps(known, sort_keys=True, default=str)
    return Identity(hashlib.sha256(text.encode()).hexdigest(), terms, dict(_flat("", json.loads(text))))


def _structure(network: nn.Module) -> str:
    """Return as text how a network differs from what its builder makes: tensors alone do not tell all of it."""
    structure = structure_of(network)
    if not structure:
        return ""
    return hashlib.sha256(json.dumps(dataclasses.asdict(structure), sort_keys=True).encode()).hexdigest()


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield nested values by the last parts of their names; of long ones, such as digests, the beginning."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(key.replace("_", "-"), part)
    else:
        yield name, str(value)[:LONGEST]


def _division(images: DataLoader[Any]) -> dict[str, Any]:
    """Return how images are divided into the batches of all processes together; see `surgeon.processes.shared`.

    The workers that share a stream decide its order.
    """
    stream = isinstance(images.dataset, IterableDataset)
    workers = images.num_workers if stream else None
    if images.batch_size is not None:
        source: Any = images.dataset if stream else images.sampler
        together = {"images": len(source), "images a batch of all processes": images.batch_size * count()}
        return {**together, "drop last": images.drop_last, "workers": workers}
    joined = 1 if images.batch_sampler is None else count()
    return {"batches": -(-len(images) // joined)}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
