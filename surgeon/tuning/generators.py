"""The generators of random numbers that training and reading images draw from without naming one."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

DEVICES = ("cuda", "xpu", "mps")
"""Kinds of devices with generators of their own."""


def derived_seed(*numbers: int) -> int:
    """Mix a seed with the numbers of an epoch, a process, … into another seed, in 0..2³²-1."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the random numbers of dropout and augmentation, which take no generator, and put their state back after.

    Args:
        seed: in 0..2³²-1.
        device: the device whose random numbers are seeded beside those of the CPU.
    """
    before = generator_states(device)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        set_generators(before, device)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's own generators.

    Args:
        device: the device whose generator is kept beside the CPU's.

    Returns:
        Plain values and tensors by name.
    """
    numpy_state = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    states = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**inner, "key": torch.from_numpy(inner["key"].astype(np.int64))}},
        "torch": torch.get_rng_state(),
    }
    if device.type in DEVICES:
        states[device.type] = torch.get_device_module(device).get_rng_state(*_which(device))
    return states


def set_generators(states: dict[str, Any], device: torch.device) -> None:
    """Put the generators into the states that `generator_states` returned; those of another kind of device are left."""
    inner = states["numpy"]["state"]
    random.setstate(states["python"])
    np.random.set_state({**states["numpy"], "state": {**inner, "key": inner["key"].numpy().astype(np.uint32)}})
    torch.set_rng_state(states["torch"])
    if device.type in DEVICES and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type], *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    # Of the last kind there is one at most.
    return () if device.type == "mps" else (device,)


def apart(batches: Iterable[Any], seed: int, device: torch.device) -> Iterator[Any]:
    """Read batches with random numbers of their own, which do not depend on what is drawn between them.

    Args:
        batches: what reads images in this process.
        seed: of their random numbers, in 0..2³²-1.
        device: see `seeded`.

    Yields:
        The batches.
    """
    with seeded(seed, device):
        own = generator_states(device)
    iterator = iter(batches)
    while True:
        others = generator_states(device)
        set_generators(own, device)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        finally:
            own = generator_states(device)
            set_generators(others, device)
        yield batch
