"""Whole networks with odd numbers in them: some are read, the others refused for what they hold."""

import math
from collections.abc import Callable, Iterator

import torch
from hostile_case import ARCH, Case, laid_out, saves, whole_state, writes
from torch import Tensor

State = dict[str, Tensor]
WEIGHT, VARIANCE, COUNTER = "conv_stem.weight", "bn1.running_var", "bn1.num_batches_tracked"


def _filled(name: str, value: float, count: int | None = None) -> Callable[[State], State]:
    def change(state: State) -> State:
        tensor = state[name].clone()
        tensor.view(-1)[:count] = value
        return state | {name: tensor}

    return change


def _cast(kind: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: value.to(kind) if value.is_floating_point() else value for name, value in state.items()}


def _replaced(name: str, tensor: Tensor) -> Callable[[State], State]:
    return lambda state: state | {name: tensor}


def _without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def _all_zero(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def _all_equal(state: State) -> State:
    return {name: torch.ones_like(value) for name, value in state.items()}


CHANGES: dict[str, tuple[Callable[[State], State], str]] = {
    "nothing changed": (lambda state: state, "read"),
    "one NaN": (_filled(WEIGHT, math.nan, 1), "NaN"), "NaN everywhere": (_filled(WEIGHT, math.nan), "NaN"),
    "infinity": (_filled(WEIGHT, math.inf, 1), "NaN"), "minus infinity": (_filled(WEIGHT, -math.inf, 1), "NaN"),
    "NaN in statistics": (_filled(VARIANCE, math.nan, 1), "NaN"),
    "beyond float32": (
        lambda state: state | {WEIGHT: torch.full_like(state[WEIGHT], 1e300, dtype=torch.float64)}, "NaN"),
    "denormals": (_filled(WEIGHT, 1e-44), "read"), "largest numbers": (_filled(WEIGHT, 3e38), "read"),
    "negative zero": (_filled(WEIGHT, -0.0), "read"), "all zero": (_all_zero, "read"), "all one": (_all_equal, "read"),
    "a variance below zero": (_filled(VARIANCE, -1e-30, 1), "below zero"),
    "variances of zero": (_filled(VARIANCE, 0.0), "read"),
    "a negative count": (_filled(COUNTER, -1), "read"), "a count of 2**62": (_filled(COUNTER, 2**62), "read"),
    "float64": (_cast(torch.float64), "read"), "float16": (_cast(torch.float16), "read"),
    "bfloat16": (_cast(torch.bfloat16), "read"), "float8 e4m3": (_cast(torch.float8_e4m3fn), "read"),
    "float8 e5m2": (_cast(torch.float8_e5m2), "read"),
    "int8": (_cast(torch.int8), "does not fit"), "uint8": (_cast(torch.uint8), "does not fit"),
    "int64": (_cast(torch.int64), "does not fit"), "truth": (_cast(torch.bool), "does not fit"),
    "complex": (_cast(torch.complex64), "does not fit"),
    "no numbers in a weight": (_replaced(WEIGHT, torch.empty(0, 3, 3, 3)), "does not fit"),
    "no numbers in a new tensor": (_replaced("new", torch.empty(0)), "does not fit"),
    "a scalar weight": (_replaced(WEIGHT, torch.tensor(1.0)), "does not fit"),
    "nine axes": (_replaced(WEIGHT, torch.ones(1, 1, 1, 1, 1, 1, 1, 1, 1)), "does not fit"),
    "a classifier without classes": (_replaced("classifier.weight", torch.empty(0, 256)), "does not fit"),
    "a tensor too many": (_replaced("new", torch.ones(3)), "does not fit"),
    "a tensor missing": (_without(WEIGHT), "does not fit"), "counts missing": (_without(COUNTER), "read"),
    "statistics missing": (_without(VARIANCE), "does not fit"),
}  # fmt: skip


def _shared(state: State) -> State:
    """Equal shapes on one storage, and one storage for everything else."""
    everything = torch.cat([value.reshape(-1) for value in state.values() if value.is_floating_point()])
    changed, place = dict(state), 0
    for name, value in state.items():
        if value.is_floating_point():
            changed[name] = everything[place : place + value.numel()].view(value.shape)
            place += value.numel()
    return changed


def _transposed(state: State) -> State:
    return {name: value.mT.contiguous().mT if value.ndim > 1 else value for name, value in state.items()}


def _strided(state: State) -> State:
    return {
        name: torch.stack([value, value], -1)[..., 0] if value.is_floating_point() else value
        for name, value in state.items()
    }  # fmt: skip


def _tied(state: State) -> State:
    """All vectors of one length on one storage."""
    firsts: dict[tuple[int, ...], Tensor] = {}
    return {
        name: firsts.setdefault(tuple(value.shape), value) if value.ndim == 1 else value
        for name, value in state.items()
    }  # fmt: skip


def _expanded(state: State) -> State:
    """One number for a whole tensor: the file holds less than the network needs."""
    return state | {WEIGHT: torch.ones(1).expand(state[WEIGHT].shape)}


def value_cases() -> Iterator[Case]:
    """Yield all of them."""
    for name, (change, outcome) in CHANGES.items():
        state = change(whole_state())
        kind = "odd numbers" if outcome == "read" else "bad numbers"
        says = "" if outcome == "read" else outcome
        expected = "read" if outcome == "read" else "refused"
        yield Case(kind, f"{name}, safetensors", writes(laid_out(state)), expected, says=says)
        for zipped in (True, False):
            where = "zip" if zipped else "legacy"
            if name.startswith("float8") and not zipped:
                # The old format has no such numbers.
                yield Case(kind, f"{name}, {where}", saves(state, zipped=zipped), suffix=".pt")
                continue
            yield Case(kind, f"{name}, {where}", saves(state, zipped=zipped), expected, suffix=".pt", says=says)
    storages = {"shared": _shared, "transposed": _transposed, "strided": _strided, "tied": _tied}
    for name, change in storages.items():
        for zipped in (True, False):
            where = "zip" if zipped else "legacy"
            yield Case("odd storage", f"{name}, {where}", saves(change(whole_state()), zipped=zipped), "read", ".pt")
    for zipped in (True, False):
        where = "zip" if zipped else "legacy"
        expanded = saves(_expanded(whole_state()), zipped=zipped)
        yield Case("odd storage", f"expanded, {where}", expanded, suffix=".pt", says="storage")
    for key in ("state_dict", "model", "model_ema"):
        for zipped in (True, False):
            nested = saves({key: whole_state(), "epoch": 3}, zipped=zipped)
            yield Case("odd storage", f"under {key}, {'zip' if zipped else 'legacy'}", nested, "read", ".pth")
    yield Case("odd numbers", "by the command line", writes(laid_out(whole_state())), "read", command="inspect")
    header = {"architecture": ARCH, "architecture_args": '{"num_classes": 3}'}
    yield Case("odd numbers", "named by its header", writes(laid_out(whole_state(), header)), "read", arch=None)
