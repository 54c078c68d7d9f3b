"""Every pattern of coupling at other widths: it resizes exactly, or it is named with a reason."""

import pytest
import torch
from nets import NETWORKS
from torch import nn

from surgeon.coupling import trace
from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.plan import Resize, Width
from surgeon.edit.resizable import families, unresizable
from surgeon.edit.resized import prove_resize
from surgeon.errors import PlanError
from surgeon.structure import structure_of

NO_SIZES, CUT, APART, MEET = "is resized is not known", "At another width", "side by side", "They meet"

# By network, how many groups change their widths, and words of the reasons of the others.
PATTERNS: dict[str, tuple[int, list[str]]] = {
    "Grouped": (4, []),
    "Depthwise": (1, []),
    "DepthwiseMultiplier": (1, []),
    "OneChannel": (2, []),
    "Transposed": (2, []),
    "TransposedGrouped": (4, []),
    "TransposedDepthwise": (1, []),
    "TransposedDepthwiseMultiplier": (1, []),
    "Conv1d": (2, []),
    "Conv3d": (2, []),
    "FixedBlur": (0, [CUT]),
    "StoredBlur": (0, [NO_SIZES]),
    "KernelBank": (0, [NO_SIZES]),
    "Chain": (2, []),
    "Residual": (2, []),
    "Projection": (3, []),
    "ZeroPaddedShortcut": (2, [APART]),
    "ZeroJoinedShortcut": (1, [CUT, CUT]),
    "DenseConcat": (3, []),
    "CatTwice": (1, []),
    "CatShuffled": (0, [CUT, CUT]),
    "Split": (1, [CUT, CUT]),
    "Chunk": (0, [CUT, CUT]),
    "Slice": (0, [APART, APART, APART]),
    "Unbind": (1, [CUT, CUT]),
    "StackSum": (2, []),
    "StackInterleave": (1, [APART, APART]),
    "ChannelShuffle": (4, [APART, APART, APART, APART]),
    "PixelShuffle": (2, []),
    "PixelUnshuffle": (1, []),
    "SpaceToDepth": (1, []),
    "FlattenLinear": (1, []),
    "FlattenChannelsLast": (1, []),
    "Repeat": (1, []),
    "RepeatInterleave": (1, []),
    "FoldedPatches": (2, []),
    "SqueezeExcite": (2, []),
    "SpatialGate": (0, [MEET]),
    "SoftmaxOverChannels": (0, [MEET]),
    "LayerNorm": (1, [NO_SIZES]),
    "GroupNorm": (0, [NO_SIZES, NO_SIZES]),
    "InstanceNorm": (1, []),
    "WeightStandardized": (1, [MEET]),
    "WeightStandardizedGrouped": (2, [MEET, MEET]),
    "WeightNorm": (0, [NO_SIZES, NO_SIZES]),
    "WeightNormHook": (0, [NO_SIZES, NO_SIZES]),
    "CalledTwice": (1, []),
    "Tied": (0, ["more than one layer", "more than one layer"]),
    "TiedTransposed": (0, [NO_SIZES, MEET]),
    "ClassToken": (0, [NO_SIZES]),
    "AuxiliaryHead": (2, []),
    "TransformerLayer": (1, [NO_SIZES] * 5),
    "WindowAttention": (0, [CUT] * 5),
    "ZeroedPart": (1, [CUT]),
}


def widths(graph: CouplingGraph, groups: list[ChannelGroup]) -> tuple[Width, ...]:
    """Drop some channels of one family, add some to the next, and do both with the third."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for number, family in enumerate(families(graph, groups)):
        for group in family:
            kept = group.size if number % 3 == 1 else max(2, group.size - 1 - number % 2)
            keep = torch.randperm(group.size, generator=generator)[:kept].sort().values
            result.append(Width(group, keep, 0 if number % 3 == 0 else 1 + number % 3))
    return tuple(result)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_resizes_exactly_or_has_a_reason(name: str) -> None:
    count, words = PATTERNS[name]
    torch.manual_seed(0)
    model = NETWORKS[name].build()
    example = NETWORKS[name].inputs()
    graph = trace(model, example)
    reasons = unresizable(model, graph, graph.groups, example)
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons.values(), strict=True)), reasons
    assert all(reason.endswith(".") for reason in reasons.values())
    groups = [group for group in graph.groups if group not in reasons]
    assert len(groups) == count
    if groups:
        prove_resize(model, Resize(widths(graph, groups), seed=1), example)


def test_the_channels_that_conv_groups_read_or_write_are_families() -> None:
    graph = trace(NETWORKS["Grouped"].build(), NETWORKS["Grouped"].inputs())
    first, second, third, fourth = graph.groups
    assert families(graph, graph.groups) == [(first, second), (third, fourth)]
    graph = trace(NETWORKS["DenseConcat"].build(), NETWORKS["DenseConcat"].inputs())
    assert families(graph, graph.groups[1:]) == [(group,) for group in graph.groups[1:]]


def test_a_family_of_which_some_stay_stays() -> None:
    network = NETWORKS["Grouped"]
    model = network.build()
    graph = trace(model, network.inputs())
    reasons = unresizable(model, graph, graph.groups[1:], network.inputs())
    assert list(reasons) == [graph.groups[1]]
    assert reasons[graph.groups[1]] == "They must be as many as those of 'stem', which keep their number."


class Uneven(nn.Module):
    """The first conv group reads two sorts of channels, the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1, groups=2)
        self.one, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.stem(x)
        return self.head(self.conv(torch.cat([first, self.side(x)], 1))) + self.one(first[:, :2])


def test_conv_groups_with_unlike_channels_have_a_reason() -> None:
    model, example = Uneven(), torch.zeros(2, 3, 4, 4)
    graph = trace(model, example)
    assert [group.size for group in graph.groups] == [2, 2, 4, 2, 2]
    reasons = unresizable(model, graph, graph.groups, example)
    assert list(reasons) == list(graph.groups[:3])
    assert all("'conv.weight' have different channels" in reason for reason in reasons.values())


def test_nothing_is_left_behind_in_the_network() -> None:
    network = NETWORKS["Split"]
    model = network.build()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    graph = trace(model, network.inputs())
    unresizable(model, graph, graph.groups, network.inputs())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not structure_of(model)


def test_a_proof_refuses_what_shows_in_the_outputs() -> None:
    network = NETWORKS["SpatialGate"]
    model = network.build()
    graph = trace(model, network.inputs())
    with pytest.raises(PlanError, match="computes something else"):
        prove_resize(model, Resize(widths(graph, [graph.groups[0]]), 0), network.inputs())


def test_a_proof_refuses_channels_that_then_belong_together_with_others() -> None:
    network = NETWORKS["ZeroedPart"]
    model = network.build()
    graph = trace(model, network.inputs())
    (bad,) = unresizable(model, graph, graph.groups, network.inputs())
    edit = Resize((Width(bad, torch.arange(bad.size), 4),), 0)
    with pytest.raises(PlanError, match="belong together with others"):
        prove_resize(model, edit, network.inputs())
