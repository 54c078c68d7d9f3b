"""Load a checkpoint into a network strictly: every tensor, of the right shape, and finite."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgeon.checkpoint.display import LISTED, listed, shown
from surgeon.checkpoint.read import Checkpoint
from surgeon.checkpoint.state_dict import common_prefix
from surgeon.errors import CheckpointError
from surgeon.sound import statistics

# BatchNorm counts its batches since torch 0.4.1 only, and no forward pass with a momentum reads the count.
COUNTER = "num_batches_tracked"

REMEDY = "Pass the --arch that the checkpoint was trained with."


@dataclass(frozen=True)
class Misfit:
    """A tensor that differs between file and network; None where one of them lacks it."""

    name: str
    found: Tensor | None
    wanted: Tensor | None


def fit(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the checkpoint's tensors into the network, in the network's own precision.

    Args:
        model: changed in place; left alone where the checkpoint is refused for what it holds.
        checkpoint: what `read` returned. Batch counters of normalization layers may be missing.

    Raises:
        CheckpointError: tensors are missing, surplus, misshapen or of another kind of number, or hold NaN or infinity,
            or variances are below zero; or the file was changed since it was read.
    """
    state = model.state_dict()
    check_fit(state, checkpoint, str(getattr(model, "surgeon_architecture", type(model).__name__)))
    prefix = common_prefix(state.keys())
    tensors = {
        prefix + name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not _is_spoilt_counter(name, tensor)
    }  # fmt: skip
    _check_finite(tensors, state, checkpoint)
    _check_variances(tensors, model, checkpoint)
    model.load_state_dict(tensors, strict=False)
    # What was mapped from the file is copied now, and is what was hashed.
    checkpoint.check_unchanged()


def check_fit(state: Mapping[str, Tensor], checkpoint: Checkpoint, network: str, remedy: str = REMEDY) -> None:
    """Compare names, shapes and kinds of number, without a look at the values.

    Args:
        state: the network's state dict; its tensors may be without data.
        checkpoint: what `read` returned.
        network: the network's name, for the message.
        remedy: what the message says to do.

    Raises:
        CheckpointError: they differ; the first ten tensors are listed with both shapes.
    """
    found = misfits(state, checkpoint.tensors)
    if found:
        raise CheckpointError(_description(found, checkpoint, network), remedy)


def misfits(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[Misfit]:
    """The tensors that differ, in the network's order and then the file's."""
    start = len(common_prefix(state.keys()))
    wanted = {name[start:]: tensor for name, tensor in state.items()}
    pairs = [Misfit(name, tensors.get(name), tensor) for name, tensor in wanted.items()]
    pairs += [Misfit(name, tensor, None) for name, tensor in tensors.items() if name not in wanted]
    return [pair for pair in pairs if not _fits(pair)]


def _fits(pair: Misfit) -> bool:
    if pair.wanted is None:
        return False
    if pair.found is None:
        return pair.name.endswith(COUNTER)
    if pair.found.shape != pair.wanted.shape:
        return False
    return _kind(pair.found) == _kind(pair.wanted) or _is_spoilt_counter(pair.name, pair.found)


def _kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "floating" if tensor.is_floating_point() else "integer"


def _is_spoilt_counter(name: str, tensor: Tensor) -> bool:
    """A batch counter that was cast to floating point along with the weights, and may have overflown there."""
    return name.endswith(COUNTER) and tensor.is_floating_point()


def _check_finite(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor, state[name].dtype)]
    if bad:
        raise CheckpointError(
            f"{checkpoint.path} has NaN or infinite values in {listed(bad)}.",
            "Take a checkpoint from before the training diverged.",
        )


def _check_variances(tensors: Mapping[str, Tensor], model: nn.Module, checkpoint: Checkpoint) -> None:
    kept = [name for name, _ in statistics(model) if name.endswith("running_var") and name in tensors]
    bad = [name for name in kept if bool((tensors[name].float() < 0).any())]
    if bad:
        raise CheckpointError(
            f"{checkpoint.path} has running variances below zero in {listed(bad)}.",
            "Take a checkpoint from before they were spoilt, or measure its BatchNorm statistics anew.",
        )


def _is_finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.to(dtype)).all())


def _description(found: list[Misfit], checkpoint: Checkpoint, network: str) -> str:
    missing = sum(pair.found is None for pair in found)
    surplus = sum(pair.wanted is None for pair in found)
    misshapen = len(found) - missing - surplus
    lines = [
        f"{checkpoint.path} does not fit {shown(network)}, with tensors {missing} missing, {surplus} surplus, "
        f"{misshapen} misshapen:"
    ]
    lines += [_line(pair) for pair in found[:LISTED]]
    if len(found) > LISTED:
        lines.append(f"and {len(found) - LISTED} more")
    return "\n  ".join(lines)


def _line(pair: Misfit) -> str:
    kinds_differ = pair.found is not None and pair.wanted is not None and _kind(pair.found) != _kind(pair.wanted)
    sides = (_side(tensor, kinds_differ) for tensor in (pair.found, pair.wanted))
    return "{}: file {}, network {}".format(shown(pair.name), *sides)


def _side(tensor: Tensor | None, with_type: bool) -> str:
    if tensor is None:
        return "none"
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" if with_type else str(list(tensor.shape))
