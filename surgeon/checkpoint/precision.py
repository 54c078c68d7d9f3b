"""The types in which a file stores its numbers: they are computed with in the network's own, and written back."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from surgeon.checkpoint.display import listed
from surgeon.checkpoint.state_dict import common_prefix
from surgeon.errors import OutputError

ATTRIBUTE = "surgeon_types"
"""A network's attribute: by state-dict key, in which type the file had what is computed with in another."""

Types = Mapping[str, torch.dtype]

TOO_LARGE, NO_NUMBERS = "too large", "NaN or infinite"
"""What values are that a file's type is not to have."""

TOLD_SHARE = 0.01
"""Of a tensor's values other than zero: where more than these become zero by the file's type, that is told."""

BITS_WITHOUT_WARNING = 8
"""Of types that have no infinity, or that torch gives their largest instead: what they hold is told by value."""


def remember_types(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Note in which types the file had the floating-point tensors of a network.

    Args:
        model: has been loaded from them; gets the attribute.
        tensors: as `read` returned them.
    """
    state = model.state_dict()
    start = len(common_prefix(state.keys()))
    found = {name: tensors[name[start:]] for name in state if name[start:] in tensors}
    # Into the dictionary, since nn.Module declares that it takes nothing but tensors and modules as attributes.
    vars(model)[ATTRIBUTE] = {
        name: tensor.dtype
        for name, tensor in found.items()
        if tensor.is_floating_point() and state[name].is_floating_point() and tensor.dtype != state[name].dtype
    }


def stored_types(model: nn.Module) -> dict[str, torch.dtype]:
    """Return in which types a network's tensors are to be written, by state-dict key, where these are not their own.

    What was cast since it was loaded is written as it was cast. The network may be in a wrapper, or inside another one.
    """
    state, loaded_as = model.state_dict(), torch.get_default_dtype()
    known: dict[str, torch.dtype] = {}
    # A wrapper does not pass the attribute on, and a module's place is its tensors' prefix.
    for place, part in model.named_modules(remove_duplicate=False):
        remembered: Types = vars(part).get(ATTRIBUTE, {})
        known |= {f"{place}.{name}" if place else name: dtype for name, dtype in remembered.items()}
    return {name: dtype for name, dtype in known.items() if name in state and state[name].dtype == loaded_as}


def unfit(state: Mapping[str, Tensor], types: Types) -> dict[str, str]:
    """Return, by name, which tensors have values that the type in which they would be written is not to have.

    Returns:
        `NO_NUMBERS` where values are NaN or infinite already, `TOO_LARGE` where others are beyond the type's largest.
    """
    found = {name: _trouble(state[name], dtype) for name, dtype in types.items() if name in state}
    return {name: trouble for name, trouble in found.items() if trouble is not None}


def in_types(state: Mapping[str, Tensor], types: Types) -> dict[str, Tensor]:
    """Return the tensors in the types in which they are written.

    Args:
        state: by name.
        types: by name, for those that are not written in their own type.

    Raises:
        OutputError: values are too large for their type, NaN or infinite.
    """
    troubles = unfit(state, types)
    names = [name for name, trouble in troubles.items() if trouble == NO_NUMBERS]
    if names:
        raise OutputError(
            f"Values of {listed(names)} are NaN or infinite.",
            "Take weights from before the training diverged, or pass types={} to write them as they are.",
        )
    names = list(troubles)
    if names:
        kinds = _kinds(types[name] for name in names)
        raise OutputError(
            f"Values of {listed(names)} are too large for {kinds}, which the file had them in.",
            "Pass types={} to write everything in the network's own type.",
        )
    return {name: tensor.to(types[name]) if name in types else tensor for name, tensor in state.items()}


def fitting_types(model: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, torch.dtype], list[str]]:
    """Return the types in which a network's weights are written, and notes on what the file's own cannot hold.

    What is too large stays in the type that it is computed with: a result that took hours is not lost over it. What is
    too small becomes zero, as in any rounding to that type.

    Args:
        model: the network.
        states: its state dict, and others of its that are to be written in the same types.
    """
    types = stored_types(model)
    troubles = [one for state in states for one in unfit(state, types).items()]
    kept = {name for name, _ in troubles}
    notes = []
    for trouble in (NO_NUMBERS, TOO_LARGE):
        names = sorted({name for name, own in troubles if own == trouble})
        if names:
            verbs = "is written in the type that it is" if len(names) == 1 else "are written in the type that they are"
            what = f"{trouble} for {_kinds(types[name] for name in names)}" if trouble == TOO_LARGE else trouble
            notes.append(f"{listed(names)} {verbs} computed with: some values are {what}.")
    types = {name: dtype for name, dtype in types.items() if name not in kept}
    return types, [*notes, *_vanishing(states, types)]


def _vanishing(states: Sequence[Mapping[str, Tensor]], types: Types) -> list[str]:
    """Return a note where many values of a tensor are too small for the type in which it is written."""
    found: dict[str, tuple[int, int]] = {}
    for name, dtype in types.items():
        for tensor in (state[name].detach() for state in states if name in state):
            used = tensor != 0
            lost, all_used = int((used & (tensor.to(dtype).to(tensor.dtype) == 0)).sum()), int(used.sum())
            if lost > TOLD_SHARE * all_used:
                # Of several states that which loses most.
                found[name] = max(found.get(name, (0, 0)), (lost, all_used))
    if not found:
        return []
    lost, everything = (sum(numbers) for numbers in zip(*found.values(), strict=True))
    verb, what = ("becomes", "value") if lost == 1 else ("become", "values")
    return [
        f"{lost:,} {what} of {everything:,} other than zero ({100 * lost / everything:.2g} %) {verb} zero in "
        f"{listed(sorted(found))}: too small for {_kinds(types[name] for name in found)}, which the file has them in. "
        "All figures are of the network as it was before. To keep them, start from a copy of the checkpoint in float32."
    ]


def in_words(dtypes: list[torch.dtype]) -> str:
    """Return types with the number of tensors in each: `float16 (12 tensors) and float32 (1 tensor)`."""
    counts = Counter(dtypes)
    return " and ".join(
        f"{name} ({counts[dtype]} tensor{'' if counts[dtype] == 1 else 's'})"
        for name, dtype in sorted((_name(dtype), dtype) for dtype in counts)
    )


def _kinds(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted({_name(dtype) for dtype in dtypes}))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _trouble(tensor: Tensor, dtype: torch.dtype) -> str | None:
    if not tensor.numel():
        return None
    ends = torch.stack(tensor.detach().aminmax())
    if not ends.isfinite().all():
        return NO_NUMBERS
    limits = torch.finfo(dtype)
    if limits.bits > BITS_WITHOUT_WARNING:
        # What is a little beyond the largest is rounded to that.
        fits = ends.to(dtype).isfinite().all()
    else:
        fits = ends.double().abs().max() <= limits.max
    return None if fits else TOO_LARGE
