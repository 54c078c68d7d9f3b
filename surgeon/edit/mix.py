"""Mix channels: every producer's rows, and every consumer's columns, become weighted sums."""

from collections.abc import Mapping

import torch

from surgeon.coupling.graph import ChannelGroup, Member, Writer
from surgeon.edit.plan import Mix

Tensors = Mapping[str, torch.Tensor]


def channels_first(tensors: Tensors, member: Member) -> torch.Tensor:
    """Return the rows of the member's tensor with its axis first; writing to the result writes to the tensor."""
    tensor = tensors[member.tensor].data
    return (tensor if member.rows is None else tensor[member.rows]).movedim(member.dim, 0)


def mix(tensors: Tensors, edit: Mix) -> None:
    # Folded rows come from filters as they are before any column of the same tensor is mixed.
    folded = _write_folded(tensors, edit) if edit.folded else set()
    for member in edit.group.members:
        if (member.tensor, member.dim) in folded:
            continue
        view = channels_first(tensors, member)
        weights = (edit.consumers if member.role == "consumer" else edit.producers).to(view.device)
        positions = member.positions.to(view.device)
        channels = edit.channels.to(view.device)
        copies = range(positions.shape[1])
        mixed = [weights @ view[positions[:, copy]].flatten(1 if view.dim() > 1 else 0).double() for copy in copies]
        for copy, rows in zip(copies, mixed, strict=True):
            places = positions[channels, copy]
            view[places] = rows.reshape(len(places), *view.shape[1:]).to(view.dtype)


def foldable(group: ChannelGroup) -> tuple[Writer, ...]:
    """Return the writers whose BatchNorm belongs to them alone, so that both can be mixed as one affine map."""
    used = [writer.norm.running_mean for writer in group.writers if writer.norm is not None]
    rows = {member.tensor for member in group.members if member.dim == 0 and member.role != "consumer"}
    return tuple(
        writer
        for writer in group.writers
        if writer.norm is not None
        and writer.norm.weight is not None
        and writer.norm.bias is not None
        and used.count(writer.norm.running_mean) == 1
        and writer.weight in rows
    )


def _write_folded(tensors: Tensors, edit: Mix) -> set[tuple[str, int]]:
    """Mix the affine maps of convolutions with their BatchNorms, and return the tensor axes that are done with it."""
    done: set[tuple[str, int]] = set()
    writes: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for writer in foldable(edit.group):
        member = next(m for m in edit.group.members if m.tensor == writer.weight and m.dim == 0)
        for copy in range(member.positions.shape[1]):
            rows = member.positions[:, copy]
            places = rows[edit.channels]
            writes += [(key, places, values) for key, values in _folded_values(tensors, writer, rows, edit.producers)]
    for key, places, values in writes:
        tensor = tensors[key].data
        tensor[places.to(tensor.device)] = values.reshape(-1, *tensor.shape[1:]).to(tensor.device, tensor.dtype)
        done.add((key, 0))
    return done


def _folded_values(
    tensors: Tensors, writer: Writer, rows: torch.Tensor, weights: torch.Tensor
) -> list[tuple[str, torch.Tensor]]:
    """Return new rows for a convolution and its BatchNorm such that their common affine map is the mixed one.

    With s = γ/√(σ²+ε), a channel computes s·(W x + b − μ) + β. The mixed channel keeps the mean of |γ|, μ, σ² and b;
    its filter and shift are those that give the mean of the maps.
    """
    norm = writer.norm
    assert norm is not None
    assert norm.weight is not None
    assert norm.bias is not None

    def read(key: str) -> torch.Tensor:
        return tensors[key].data.cpu().double()[rows]

    gamma, beta, mean, variance = (read(key) for key in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    filters = read(writer.weight).flatten(1)
    bias = torch.zeros_like(beta) if writer.bias is None else read(writer.bias)
    scale = gamma / (variance + norm.eps).sqrt()
    shift = beta + scale * (bias - mean)
    new_gamma, new_mean, new_variance, new_bias = (
        weights @ gamma.abs(),
        weights @ mean,
        weights @ variance,
        weights @ bias,
    )
    new_scale = new_gamma / (new_variance + norm.eps).sqrt()
    dead = new_scale == 0
    safe = torch.where(dead, torch.ones_like(new_scale), new_scale)
    new_filters = torch.where(dead[:, None], weights @ filters, (weights @ (scale[:, None] * filters)) / safe[:, None])
    values = [
        (writer.weight, new_filters),
        (norm.weight, new_gamma),
        (norm.running_mean, new_mean),
        (norm.running_var, new_variance),
        (norm.bias, (weights @ shift) - new_scale * (new_bias - new_mean)),
    ]
    return values if writer.bias is None else [*values, (writer.bias, new_bias)]
