"""Which channel groups can get other widths: told from the tensors' shapes, and proven on a copy without storage."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.families import bound_groups, families
from surgeon.edit.layers import filters_a_channel, owner, sharing
from surgeon.edit.runs import runs_of
from surgeon.edit.trial import tried
from surgeon.structure import sizes_of

__all__ = ["families", "unresizable"]


def unresizable(
    model: nn.Module, graph: CouplingGraph, groups: Iterable[ChannelGroup], example: Any = None
) -> dict[ChannelGroup, str]:
    """Return those of some groups that cannot get other widths, each with the reason, a sentence.

    Whether a forward pass has sizes of its own (of a split, of a view) is found out by recording the network at other
    widths, on tensors without storage; where it is not known that channels stay apart until weights read them, it is
    also run. The others can get any widths, if those of a family stay equal.

    Args:
        model: the network; it stays as it is.
        graph: its coupling graph.
        groups: some of the graph's.
        example: what the network is called with, as for `trace`.
    """
    chosen = list(dict.fromkeys(groups))
    shared = sharing(model, {member.tensor for group in chosen for member in group.members})
    reasons = {group: reason for group in chosen if (reason := _shape_reason(model, group, shared))}
    bound, uneven = bound_groups(graph)
    for group, reason in uneven.items():
        if group in chosen:
            reasons.setdefault(group, reason)
    for family in bound:
        outside = next((group for group in family if group not in chosen or group in reasons), None)
        for group in family if outside is not None else ():
            if group in chosen:
                reasons.setdefault(group, _tied(outside))
    units = [family for family in families(graph, chosen) if not any(group in reasons for group in family)]
    reasons.update(tried(model, graph, units, example))
    return {group: reasons[group] for group in chosen if group in reasons}


def _shape_reason(model: nn.Module, group: ChannelGroup, shared: set[str]) -> str:
    """Return why a group cannot have another width, as far as its tensors show it; empty if they do not."""
    for member in group.members:
        name = owner(member.tensor)
        module = model.get_submodule(name)
        if sizes_of(module) is None:
            return f"'{member.tensor}' carries them, and how a {type(module).__name__} is resized is not known."
        if member.tensor in shared:
            return f"'{member.tensor}' carries them, which more than one layer uses."
        runs = runs_of(member)
        if runs is None:
            return f"In '{member.tensor}' they do not lie side by side in their order."
        filters = filters_a_channel(module)
        if filters and any(run.start % filters or run.inner % filters for run in runs):
            return f"The filters of one channel in '{member.tensor}' belong to several of them."
    return ""


def _tied(other: ChannelGroup | None) -> str:
    assert other is not None
    return f"They must be as many as those of '{other.name}', which keep their number."
