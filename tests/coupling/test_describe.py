"""The graph as a tree, JSON, Graphviz and a picture."""

import json
import re
from xml.etree import ElementTree

import pytest
import timm
import torch
from nets import NETWORKS
from torch import nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.coupling.describe import stage_of, to_dot, to_json, to_svg, tree
from surgeon.errors import LayerError
from surgeon.printable import printable_lines

SVG = "{http://www.w3.org/2000/svg}"

RESNET18 = """\
conv1: 1 group
  conv1: 64 channels
    producer  conv1.weight axis 0
    affine    bn1.weight axis 0
    affine    bn1.bias axis 0
    consumer  layer1.0.conv1.weight axis 1
    producer  layer1.0.conv2.weight axis 0
    affine    layer1.0.bn2.weight axis 0
    affine    layer1.0.bn2.bias axis 0
    consumer  layer1.1.conv1.weight axis 1
    producer  layer1.1.conv2.weight axis 0
    affine    layer1.1.bn2.weight axis 0
    affine    layer1.1.bn2.bias axis 0
    consumer  layer2.0.conv1.weight axis 1
    consumer  layer2.0.downsample.0.weight axis 1
    statistic bn1.running_mean axis 0
    statistic bn1.running_var axis 0
    statistic layer1.0.bn2.running_mean axis 0
    statistic layer1.0.bn2.running_var axis 0
    statistic layer1.1.bn2.running_mean axis 0
    statistic layer1.1.bn2.running_var axis 0
layer1: 2 groups
  layer1.0.conv1: 64 channels
    producer  layer1.0.conv1.weight axis 0
"""


@pytest.fixture(scope="module")
def resnet18() -> CouplingGraph:
    with torch.device("meta"):
        return trace(timm.create_model("resnet18"))


def graph_of(name: str) -> CouplingGraph:
    return trace(NETWORKS[name].build(), NETWORKS[name].inputs())


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("layer4.0.conv1", "layer4"),
        ("stages.3.blocks.0.conv", "stages.3"),
        ("blocks.11.attn.qkv", "blocks.11"),
        ("features.0", "features"),
        ("conv1", "conv1"),
        ("patch_embed.proj", "patch_embed"),
    ],
)
def test_stage_of_a_module(name: str, stage: str) -> None:
    assert stage_of(name) == stage


def test_the_tree_of_resnet18_begins_as_written(resnet18: CouplingGraph) -> None:
    assert tree(resnet18).startswith(RESNET18)


def test_the_tree_ends_with_what_is_frozen_and_why(resnet18: CouplingGraph) -> None:
    assert tree(resnet18).splitlines()[-5:] == [
        "frozen: 3 axes",
        "  In conv1, aten.conv2d fixes the positions: they meet the network's input.",
        "    conv1.weight axis 1",
        "  These channels are the network's output.",
        "    fc.weight axis 0, fc.bias axis 0",
    ]


def test_the_tree_narrows_to_layers(resnet18: CouplingGraph) -> None:
    shown = tree(resnet18, ["layer4.0.conv1", "layer4"])
    assert [line for line in shown.splitlines() if not line.startswith("    ")] == [
        "layer4: 2 groups",
        "  layer4.0.conv1: 512 channels",
        "  layer4.0.conv2: 512 channels",
    ]
    with pytest.raises(LayerError, match="'layer9'"):
        tree(resnet18, ["layer9"])


def test_the_tree_shows_rows_repeats_and_bends() -> None:
    assert "    consumer  conv.weight axis 1 rows 6-11" in tree(graph_of("Grouped")).splitlines()
    assert "    consumer  fc.weight axis 1 (16 places a channel)" in tree(graph_of("FlattenLinear")).splitlines()
    assert "  stem: 8 channels, not homogeneous" in tree(graph_of("SqueezeExcite")).splitlines()


def test_json_holds_everything_and_survives_the_trip() -> None:
    graph = graph_of("Grouped")
    data = json.loads(json.dumps(to_json(graph)))
    assert [group["name"] for group in data["groups"]] == [group.name for group in graph.groups]
    for said, group in zip(data["groups"], graph.groups, strict=True):
        assert (said["size"], said["homogeneous"]) == (group.size, group.homogeneous)
        for entry, member in zip(said["members"], group.members, strict=True):
            assert (entry["tensor"], entry["dim"], entry["role"]) == (member.tensor, member.dim, member.role)
            assert torch.equal(torch.tensor(entry["positions"]), member.positions)
            assert (None if entry["rows"] is None else slice(*entry["rows"])) == member.rows
    assert data["frozen"] == [{"tensor": f.tensor, "dim": f.dim, "reason": f.reason} for f in graph.frozen]


def test_json_of_some_layers_holds_their_groups_only(resnet18: CouplingGraph) -> None:
    data = to_json(resnet18, ["layer1.0.conv1"])
    assert [group["name"] for group in data["groups"]] == ["layer1.0.conv1"]
    assert data["frozen"] == []


def test_dot_has_one_node_a_group_and_edges_from_writers_and_to_readers(resnet18: CouplingGraph) -> None:
    lines = to_dot(resnet18).splitlines()
    assert (lines[0], lines[-1]) == ("digraph coupling {", "}")
    statement = re.compile(r'  (rankdir=LR|node \[fontname=Helvetica\]|(g\d+|"[^"]+") (\[[^\]]+\]|-> (g\d+|"[^"]+")));')
    assert [line for line in lines[1:-1] if not statement.fullmatch(line)] == []
    assert sum("shape=ellipse" in line for line in lines) == len(resnet18.groups) == 12
    assert '  "conv1" -> g0;' in lines
    assert '  g0 -> "layer1.0.conv1";' in lines
    assert '  "layer1.0.conv1" -> g1;' in lines
    assert '  g1 -> "conv1";' not in lines


@pytest.mark.parametrize("name", ["Chain", "FusedAttention", "ScaledStandardizedGrouped", "ClassToken", "Recurrent"])
def test_the_picture_is_xml_that_names_every_group_and_module(name: str) -> None:
    graph = graph_of(name)
    root = ElementTree.fromstring(to_svg(graph))
    assert root.tag == f"{SVG}svg"
    text = "\n".join(element.text or "" for element in root.iter())
    for group in graph.groups:
        assert f"{group.name} ({group.size})" in text
        for member in group.members:
            assert (member.tensor.rpartition(".")[0] or member.tensor) in text
    total = sum(group.size for group in graph.groups)
    assert f"Coupling graph: {len(graph.groups)} channel groups with {total} channels" in text


def test_the_picture_shows_stages_as_boxes_and_modules_in_execution_order(resnet18: CouplingGraph) -> None:
    root = ElementTree.fromstring(to_svg(resnet18))
    bold = [element for element in root.iter(f"{SVG}text") if element.get("font-weight") == "bold"]
    assert [element.text for element in bold][1:] == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    modules = [t.text for t in root.iter(f"{SVG}text") if t.get("x") == "345"]
    assert modules[:4] == ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1"]
    assert modules[-1] == "fc"
    # Nothing sticks out of the picture.
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for box in root.iter(f"{SVG}rect"):
        assert 0 <= float(box.get("x", -1)) <= float(box.get("x", 0)) + float(box.get("width", 0)) <= width
        assert 0 <= float(box.get("y", -1)) <= float(box.get("y", 0)) + float(box.get("height", 0)) <= height


def test_the_same_group_has_the_same_colour_everywhere_and_others_have_others(resnet18: CouplingGraph) -> None:
    root = ElementTree.fromstring(to_svg(resnet18))
    colours: dict[str, set[str | None]] = {}
    for mark in root.iter(f"{SVG}g"):
        label, box = mark.find(f"{SVG}text"), mark.find(f"{SVG}rect")
        assert label is not None
        assert box is not None
        colours.setdefault(label.text or "", set()).add(box.get("fill"))
    assert len(colours) == 12
    assert len(set().union(*colours.values())) == 12


def test_a_class_token_stands_where_its_channels_begin() -> None:
    root = ElementTree.fromstring(to_svg(graph_of("ClassToken")))
    modules = [t.text for t in root.iter(f"{SVG}text") if t.get("x") == "345"]
    assert modules == ["cls", "position", "stem", "fc"]


def test_names_are_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('a<b>&"c"', nn.Conv2d(3, 4, 1))
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.get_submodule('a<b>&"c"')(x))

    graph = trace(Odd(), torch.zeros(2, 3, 4, 4))
    text = "\n".join(element.text or "" for element in ElementTree.fromstring(to_svg(graph)).iter())
    assert 'a<b>&"c" (4)' in text
    assert r'"a<b>&\"c\"" -> g0;' in to_dot(graph)


HOSTILE = [
    "<script>alert(1)</script>", "]]>", "\x1b]0;owned\x07", "[bold]", '"|](x)', "line\nbreak", "a\u202egnp", "nul\0",
    "g0", "back\\", 'quoted\\"', "half\udcff", "x" * 5000,
]  # fmt: skip


class Called(nn.Module):
    """A convolution of any name, and a classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.called = name
        self.add_module(name, nn.Conv2d(3, 4, 1))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self._modules[self.called](x))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_of_a_layer_breaks_out(name: str) -> None:
    plain, graph = (trace(Called(each), torch.zeros(2, 3, 4, 4)) for each in ("stem", name))
    expected = [element.tag for element in ElementTree.fromstring(to_svg(plain)).iter()]
    picture = to_svg(graph)
    assert [element.tag for element in ElementTree.fromstring(picture).iter()] == expected
    for write in (to_svg, to_dot, tree, lambda graph: json.dumps(to_json(graph), indent=2)):
        text, own = write(graph), write(plain)
        assert text == printable_lines(text)
        assert text.count("\n") == own.count("\n")
        text.encode()
    # Outside of quotation marks nothing of a name is left, and group and module stay two nodes.
    bare = [re.sub(r'"(?:[^"\\]|\\.)*"', '""', dot).replace('""', "") for dot in (to_dot(graph), to_dot(plain))]
    assert bare[0] == bare[1]
    named = {line.split(" [")[0].strip() for line in to_dot(graph).splitlines() if "shape=box" in line}
    assert len(named) == 2
    assert "g0" not in {each.strip('"') for each in named}


def test_a_graph_without_groups_is_still_a_picture() -> None:
    graph = graph_of("FlippedChannels")
    assert "0 channel groups with 0 channels" in to_svg(graph)
    assert tree(graph).startswith("frozen: ")
    assert to_dot(graph).count("->") == 0
