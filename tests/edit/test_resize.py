"""Other widths, by hand: which entries stay, which are new, what is remembered, and what is refused."""

import copy

import pytest
import torch
from nets import NETWORKS
from torch import nn

from surgeon.coupling import trace
from surgeon.coupling.graph import ChannelGroup, CouplingGraph, Member
from surgeon.edit.execute import execute
from surgeon.edit.plan import Attend, Edit, Mix, Plan, Resize, Width
from surgeon.edit.plan_file import encode
from surgeon.edit.resize import carried, renumbered
from surgeon.edit.runs import Run, runs_of
from surgeon.errors import PlanError
from surgeon.structure import CrossSets, structure_of

IMAGES = torch.zeros(2, 2, 4, 4)


def plan(*edits: Edit) -> Plan:
    return Plan("by hand", {}, (), edits)


def width(group: ChannelGroup, keep: list[int], add: int = 0) -> Width:
    return Width(group, torch.tensor(keep, dtype=torch.int64), add)


@pytest.fixture
def chain() -> nn.Sequential:
    """A convolution to 3 channels, and one to 4 that are flattened with 16 positions each."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    ).eval()


def traced(model: nn.Module) -> CouplingGraph:
    return trace(model, IMAGES)


@pytest.mark.parametrize(
    ("positions", "runs"),
    [
        ([[4], [5], [6]], [Run(4, 1)]),
        ([[0, 1], [2, 3]], [Run(0, 2)]),
        ([[0, 3], [1, 4], [2, 5]], [Run(0, 1), Run(3, 1)]),
        ([[7, 2, 3, 8], [4, 5, 9, 10]], [Run(2, 2), Run(7, 2)]),
        ([[0, 4, 6], [1, 5, 8], [2, 7, 9]], None),
        ([[0], [2], [4]], None),
        ([[2], [1], [0]], None),
    ],
)
def test_runs_by_hand(positions: list[list[int]], runs: list[Run] | None) -> None:
    found = runs_of(Member("weight", 0, "producer", torch.tensor(positions)))
    assert found == (None if runs is None else tuple(runs))


def test_every_entry_by_hand(chain: nn.Sequential) -> None:
    first, second = traced(chain).groups
    before = copy.deepcopy(chain)
    parameters = dict(chain.named_parameters())
    execute(chain, plan(Resize((width(first, [0, 2], 3), width(second, [1, 3])), seed=0)))
    old, new = before.state_dict(), chain.state_dict()
    assert [module.weight.shape for module in (chain[0], chain[3], chain[5])] == [(5, 2, 1, 1), (2, 5, 1, 1), (2, 32)]
    assert (chain[0].out_channels, chain[1].num_features, chain[3].in_channels, chain[5].in_features) == (5, 5, 5, 32)
    # What stays stands first, in its order.
    assert torch.equal(new["0.weight"][:2], old["0.weight"][[0, 2]])
    assert torch.equal(new["3.weight"][:, :2], old["3.weight"][[1, 3]][:, [0, 2]])
    assert torch.equal(new["5.weight"], torch.cat([old["5.weight"][:, 16:32], old["5.weight"][:, 48:]], 1))
    # What is new is written at random, starts its BatchNorm, and is read by zeros.
    assert new["0.weight"][2:].unique().numel() == 6
    assert new["0.bias"][2:].unique().numel() == 3
    assert new["0.weight"][2:].abs().max() <= 1 / 2**0.5
    starts = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    assert all((new[f"1.{name}"][2:] == value).all() for name, value in starts.items())
    assert (new["3.weight"][:, 2:] == 0).all()
    assert torch.equal(new["5.bias"], old["5.bias"])
    assert all(parameter is parameters[name] for name, parameter in chain.named_parameters())


def test_as_many_new_as_go_keeps_the_shape(chain: nn.Sequential) -> None:
    first, _ = traced(chain).groups
    old = copy.deepcopy(chain.state_dict())
    chain[0].weight.grad = torch.ones_like(chain[0].weight)
    execute(chain, plan(Resize((width(first, [2], 2),), seed=0)))
    assert not structure_of(chain)
    assert torch.equal(chain[0].weight[0], old["0.weight"][2])
    assert torch.equal(chain[3].weight[:, 0], old["3.weight"][:, 2])
    assert (chain[3].weight[:, 1:] == 0).all()
    assert chain[0].weight.grad is None


def test_the_seed_decides_what_is_new(chain: nn.Sequential) -> None:
    first, _ = traced(chain).groups
    made = []
    for seed in (0, 0, 1):
        model = copy.deepcopy(chain)
        execute(model, plan(Resize((width(first, [0, 1, 2], 2),), seed)))
        made.append(model.state_dict()["0.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_groups_on_one_axis_shift_each_other() -> None:
    model = NETWORKS["DenseConcat"].build()
    graph = trace(model, NETWORKS["DenseConcat"].inputs())
    stem, first, second = graph.groups
    head = model.head.weight.detach().clone()[:, :, 0, 0]
    execute(model, plan(Resize((width(stem, [1, 2], 1), width(first, [0], 2), width(second, [2])), seed=0)))
    # Columns 0 to 3 were the stem's, then three and three.
    wanted = torch.stack([head[:, 1], head[:, 2], 0 * head[:, 0], head[:, 4], *2 * [0 * head[:, 0]], head[:, 9]], 1)
    assert torch.equal(model.head.weight[:, :, 0, 0], wanted)
    assert model.conv2.in_channels == 6


def test_conv_groups_have_columns_of_their_own() -> None:
    model = NETWORKS["Grouped"].build()
    graph = trace(model, NETWORKS["Grouped"].inputs())
    low, high, *written = graph.groups
    old = model.conv.weight.detach().clone()
    keeps = ([0, 3], [1, 2], [0, 1, 5], [2, 3, 4])
    edit = Resize(
        tuple(width(group, keep, 1) for group, keep in zip((low, high, *written), keeps, strict=True)), seed=0
    )
    mask = torch.ones_like(old)
    execute(model, plan(edit))
    assert (model.conv.in_channels, model.conv.out_channels, model.conv.groups) == (6, 8, 2)
    zeros = torch.zeros(3, 1, 3, 3)
    assert torch.equal(model.conv.weight[:3], torch.cat([old[[0, 1, 5]][:, [0, 3]], zeros], 1))
    assert torch.equal(model.conv.weight[4:7], torch.cat([old[[8, 9, 10]][:, [1, 2]], zeros], 1))
    assert (model.conv.weight[3, :2] != 0).all()
    # A mask is one where something stays.
    moved = carried(edit, "conv.weight", mask)
    assert moved.shape == model.conv.weight.shape
    assert moved.sum() == 2 * 3 * 2 * 9
    assert torch.equal(moved[0, :, 0, 0], torch.tensor([1.0, 1, 0]))
    assert (moved[[3, 7]] == 0).all()


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("DepthwiseMultiplier", {"in_channels": 5, "out_channels": 10, "groups": 5}),
        ("TransposedDepthwiseMultiplier", {"in_channels": 5, "out_channels": 10, "groups": 5}),
        ("TransposedDepthwise", {"in_channels": 5, "out_channels": 5, "groups": 5}),
        ("Depthwise", {"in_channels": 5, "out_channels": 5, "groups": 5}),
    ],
)
def test_depthwise_layers_change_their_groups(name: str, sizes: dict[str, int]) -> None:
    model = NETWORKS[name].build()
    graph = trace(model, NETWORKS[name].inputs())
    execute(model, plan(Resize((width(graph.groups[0], [0, 1, 3], 2),), seed=0)))
    layer = model.up if name.startswith("Transposed") else model.depthwise
    assert {key: getattr(layer, key) for key in sizes} == sizes


def test_what_changed_is_remembered_over_several_edits(chain: nn.Sequential) -> None:
    assert not structure_of(chain)
    execute(chain, plan(Resize((width(traced(chain).groups[0], [0, 1], 0),), seed=0)))
    execute(chain, plan(Resize((width(traced(chain).groups[1], [0, 1, 2, 3], 2),), seed=0)))
    assert structure_of(chain).widths == {
        "0": {"in_channels": 2, "out_channels": 2, "groups": 1},
        "1": {"num_features": 2},
        "3": {"in_channels": 2, "out_channels": 6, "groups": 1},
        "5": {"in_features": 96, "out_features": 2},
    }
    execute(chain, plan(Resize((width(traced(chain).groups[1], [0, 1, 2, 4]),), seed=0)))
    assert structure_of(chain).widths.keys() == {"0", "1", "3"}


def test_a_layer_with_cross_attention_keeps_its_channels(chain: nn.Sequential) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1), *chain)
    _, early, _, read, written = traced(model).groups
    sets = CrossSets((0, 3), (1,))
    execute(model, plan(Attend("7", sets)))
    for group in (read, written):
        with pytest.raises(PlanError, match="'7' another size, which has cross-attention by now"):
            execute(model, plan(Resize((width(early, [0, 1, 3]), width(group, [1, 2])), seed=0)))
    assert model[1].out_channels == 5
    # Of the network as it is now, what lies apart from it is free, and it stays as it is.
    now = traced(model)
    assert not {member.tensor for group in now.groups for member in group.members} & {"7.weight", "9.weight"}
    execute(model, plan(Resize((width(next(g for g in now.groups if g.size == 5), [0, 1, 3]),), seed=0)))
    assert (model[1].out_channels, model[3].in_channels) == (3, 3)
    assert model[7].sets == structure_of(model).attention["7"] == sets
    assert model(IMAGES).shape == (2, 2)


def test_new_channels_are_found_in_the_graph_made_anew(chain: nn.Sequential) -> None:
    first, second = traced(chain).groups
    edit = Resize((width(first, [0, 2], 3), width(second, [1, 3])), seed=0)
    execute(chain, plan(edit))
    graph = traced(chain)
    assert {group.name: channels.tolist() for group, channels in renumbered(edit, graph).items()} == {"0": [2, 3, 4]}


def test_new_channels_of_conv_groups_and_of_a_concatenation_are_found() -> None:
    for name, wanted in (
        ("Grouped", [[2, 3], [2, 3]]),
        ("DenseConcat", [[2, 3], [2, 3], [2, 3]]),
        ("DepthwiseMultiplier", [[2, 3]]),
    ):
        network = NETWORKS[name]
        model = network.build()
        graph = trace(model, network.inputs())
        groups = [group for group in graph.groups if group.size <= 4]
        edit = Resize(tuple(width(group, [0, 1], 2) for group in groups), seed=0)
        execute(model, plan(edit))
        found = renumbered(edit, trace(model, network.inputs()))
        assert [channels.tolist() for channels in found.values()] == wanted, name


def test_what_is_printed_names_what_goes(chain: nn.Sequential) -> None:
    first, _ = traced(chain).groups
    changes = plan(Resize((width(first, [0, 2], 3),), seed=0)).changes()
    assert {(change.tensor, change.dim): change.positions.tolist() for change in changes}["3.weight", 1] == [1]
    assert {change.what for change in changes} == {"1 removed, 3 added"}
    assert {change.channels for change in changes} == {4}


def test_refusals_change_nothing(chain: nn.Sequential) -> None:
    first, second = traced(chain).groups
    before = copy.deepcopy(chain.state_dict())
    mix = Mix(first, torch.tensor([0]), torch.ones(1, 3), torch.ones(1, 3))
    tied = NETWORKS["Tied"].build()
    interleaved = NETWORKS["StackInterleave"].build()
    for model, edits, words in (
        (chain, [mix, Resize((width(first, [0]),), 0)], "beside other edits"),
        (chain, [Resize((width(first, [0]), width(first, [1])), 0)], "two widths"),
        (chain, [Resize((width(first, []),), 0)], "does not fit its channels"),
        (chain, [Resize((width(first, [1, 0]),), 0)], "does not fit its channels"),
        (chain, [Resize((width(first, [0, 3]),), 0)], "does not fit its channels"),
        (chain, [Resize((Width(first, torch.tensor([0]), -1),), 0)], "does not fit its channels"),
        (chain[:4], [Resize((width(second, [0]),), 0)], "do not lie in '5.weight'"),
        (tied, [Resize((width(trace(tied, NETWORKS["Tied"].inputs()).groups[0], [0]),), 0)], "More than one layer"),
        (
            interleaved,
            [Resize((width(trace(interleaved, NETWORKS["StackInterleave"].inputs()).groups[1], [0]),), 0)],
            "do not lie in 'head.weight'",
        ),
    ):
        with pytest.raises(PlanError, match=words):
            execute(model, plan(*edits))
    assert all(torch.equal(value, before[key]) for key, value in chain.state_dict().items())


def test_conv_groups_must_stay_equal() -> None:
    model = NETWORKS["Grouped"].build()
    graph = trace(model, NETWORKS["Grouped"].inputs())
    with pytest.raises(PlanError, match="'conv' cannot have the sizes"):
        execute(model, plan(Resize((width(graph.groups[0], [0]),), 0)))
    with pytest.raises(PlanError, match="'conv' cannot have the sizes"):
        execute(model, plan(Resize((width(graph.groups[2], [0]),), 0)))


def test_no_file_keeps_such_a_plan(chain: nn.Sequential) -> None:
    with pytest.raises(PlanError, match="not kept in files"):
        encode(plan(Resize((width(traced(chain).groups[0], [0]),), 0)))
