"""Every coupling pattern: the graph equals the one worked out by hand, and a permutation proves it."""

import functools

import pytest
import torch
from nets import NETWORKS, Network, Want

from surgeon.coupling import CouplingGraph, Member, trace
from surgeon.edit.verify import TOLERANCE, prove

NAMES = sorted(NETWORKS)
Row = frozenset[tuple[str, int, tuple[int, int] | None, tuple[int, ...]]]


def built(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name].build()


@functools.cache
def graph_of(name: str) -> CouplingGraph:
    return trace(built(name), NETWORKS[name].inputs())


def rows(member: Member) -> tuple[int, int] | None:
    return None if member.rows is None else (member.rows.start, member.rows.stop)


def found_groups(graph: CouplingGraph) -> set[frozenset[Row]]:
    """Return each group as the set of its channels, each channel as the set of places that belong to it."""
    result = set()
    for group in graph.groups:
        channels: list[set] = [set() for _ in range(group.size)]
        for member in group.members:
            assert member.positions.dtype == torch.int64
            assert member.positions.shape[0] == group.size
            for channel, positions in zip(channels, member.positions.tolist(), strict=True):
                channel.add((member.tensor, member.dim, rows(member), tuple(sorted(positions))))
        result.add(frozenset(frozenset(channel) for channel in channels))
    return result


def wanted_groups(network: Network) -> set[frozenset[Row]]:
    def places(want: Want, channel: int) -> tuple[int, ...]:
        return (channel,) if want.places is None else want.places[channel]

    return {
        frozenset(
            frozenset((w.tensor, w.dim, w.rows, places(w, channel)) for w in group.members)
            for channel in range(group.size)
        )
        for group in network.groups
    }


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_the_expected(name: str) -> None:
    assert found_groups(graph_of(name)) == wanted_groups(NETWORKS[name])


@pytest.mark.parametrize("name", NAMES)
def test_roles_are_the_expected(name: str) -> None:
    found = {(m.tensor, m.dim, rows(m), m.role) for group in graph_of(name).groups for m in group.members}
    wanted = {(w.tensor, w.dim, w.rows, w.role) for group in NETWORKS[name].groups for w in group.members}
    assert found == wanted


@pytest.mark.parametrize("name", NAMES)
def test_frozen_axes_are_the_expected(name: str) -> None:
    network = NETWORKS[name]
    found: dict[tuple[str, int], str] = {}
    for axis in graph_of(name).frozen:
        found[axis.tensor, axis.dim] = found.get((axis.tensor, axis.dim), "") + axis.reason
    assert set(found) == set(network.frozen)
    assert {key: word in found[key] for key, word in network.frozen.items()} == dict.fromkeys(network.frozen, True)


@pytest.mark.parametrize("name", NAMES)
def test_permuting_all_groups_changes_nothing_and_one_member_less_does(name: str) -> None:
    network = NETWORKS[name]
    proof = prove(built(name), graph_of(name), network.inputs())
    assert proof.difference < TOLERANCE
    assert proof.counter_difference is None or proof.counter_difference > 1e-3
    assert (proof.counter_difference is None) == (not network.groups)
