"""The truths of the SOFM method: permutation, duplicates, and what the freed channels may not do."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

import surgeon
from surgeon.coupling import CouplingGraph
from surgeon.coupling.graph import Carried
from surgeon.edit.execute import execute
from surgeon.edit.plan import Mix, Plan, Reinitialize
from surgeon.errors import DataError, OptionError
from surgeon.measure.activations import ClassMeans
from surgeon.methods import METHODS, make_config
from surgeon.methods.base import Inputs
from surgeon.methods.sofm import SofmConfig, make_plan, map_channels, reorganize

CLASSES = 3


class Residual(nn.Module):
    """A stem, a residual block on the same channels, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(5)
        self.outer = nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.outer_norm = nn.BatchNorm2d(6)
        self.stage = nn.ReLU()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = self.stem_norm(self.stem(images)).relu()
        inner = self.inner_norm(self.inner(stream)).relu()
        return self.head(self.stage(stream + self.outer_norm(self.outer(inner))).mean((2, 3)))


@pytest.fixture
def network() -> Residual:
    generator = torch.Generator().manual_seed(0)
    model = Residual().double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def graph(network: Residual, images: torch.Tensor) -> CouplingGraph:
    return surgeon.trace(network, images)


def carried_by(graph: CouplingGraph, module: str) -> Carried:
    (carried,) = graph.outputs.carried(module)
    return carried


def run(network: nn.Module, edits: list) -> None:
    execute(network, Plan("sofm", {}, (), tuple(edits)))


@pytest.mark.parametrize("merge", ["mean", "preserve"])
def test_a_one_to_one_mapping_is_exactly_the_permutation(
    network: Residual, images: torch.Tensor, graph: CouplingGraph, merge: Literal["mean", "preserve"]
) -> None:
    carried = carried_by(graph, "stage")
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    counts = torch.zeros(6, 6, dtype=torch.int64)
    counts[torch.arange(6), order] = CLASSES
    with torch.no_grad():
        # With every γ positive the folded map keeps each parameter, not only the function.
        network.stem_norm.weight.abs_()
        network.outer_norm.weight.abs_()
    other = copy.deepcopy(network)
    run(network, reorganize(carried, counts, SofmConfig(ratio=1.0, merge=merge), seed=0))
    surgeon.permute(other, carried.group, order)
    for key, value in other.state_dict().items():
        if merge == "mean":
            assert torch.equal(network.state_dict()[key], value), key
        else:
            torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-12, atol=1e-14)


def duplicate(network: Residual, source: int, target: int) -> None:
    """Make channel `target` of the stream carry what `source` carries, by other parameters, read by other columns."""
    with torch.no_grad():
        for conv, norm in ((network.stem, network.stem_norm), (network.outer, network.outer_norm)):
            factor = 1.7
            conv.weight[target] = factor * conv.weight[source]
            norm.running_mean[target] = factor * norm.running_mean[source]
            spread = ((norm.running_var[target] + norm.eps) / (norm.running_var[source] + norm.eps)).sqrt()
            norm.weight[target] = norm.weight[source] * spread / factor
            norm.bias[target] = norm.bias[source]


def test_merging_duplicates_preserves_the_function_and_mean_does_not(
    network: Residual, images: torch.Tensor, graph: CouplingGraph
) -> None:
    duplicate(network, 1, 4)
    carried = carried_by(graph, "stage")
    counts = torch.zeros(5, 6, dtype=torch.int64)
    for node, channels in enumerate([[0], [1, 4], [2], [3], [5]]):
        counts[node, channels] = CLASSES
    before = network(images)
    averaged = copy.deepcopy(network)
    run(network, reorganize(carried, counts, SofmConfig(merge="preserve", consumers="zero"), seed=0))
    torch.testing.assert_close(network(images), before, rtol=1e-9, atol=1e-12)
    run(averaged, reorganize(carried, counts, SofmConfig(merge="mean", consumers="zero"), seed=0))
    assert float(((averaged(images) - before).norm() / before.norm()).detach()) > 1e-3


def test_freed_channels_with_zero_consumers_do_not_reach_the_output(
    network: Residual, images: torch.Tensor, graph: CouplingGraph
) -> None:
    carried = carried_by(graph, "stage")
    counts = torch.zeros(3, 6, dtype=torch.int64)
    counts[torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6)] = CLASSES
    edits = reorganize(carried, counts, SofmConfig(consumers="zero"), seed=0)
    assert [type(edit) for edit in edits] == [Mix, Reinitialize]
    assert edits[1].channels.tolist() == [3, 4, 5]
    run(network, edits)
    before = network(images)
    with torch.no_grad():
        for conv, norm in ((network.stem, network.stem_norm), (network.outer, network.outer_norm)):
            conv.weight[3:] += 10
            norm.bias[3:] -= 5
    torch.testing.assert_close(network(images), before, rtol=1e-12, atol=1e-12)


def test_the_aggregation_by_hand(graph: CouplingGraph) -> None:
    # Two classes; channel 0 goes to node 0 twice, channel 1 once to each, channel 2 to node 1 twice; node 2 is empty.
    counts = torch.tensor([[2, 1, 0], [0, 1, 2], [0, 0, 0]])
    carried = carried_by(graph, "inner_norm")
    by_class = torch.nn.functional.pad(counts, (0, 2))
    by_class[0, 3] = by_class[1, 4] = 2
    mix, new = reorganize(carried, by_class, SofmConfig(merge="mean"), seed=0)
    assert mix.channels.tolist() == [0, 1]
    torch.testing.assert_close(mix.producers[0], torch.tensor([2, 1, 0, 2, 0], dtype=torch.float64) / 5)
    torch.testing.assert_close(mix.producers[1], torch.tensor([0, 1, 2, 0, 2], dtype=torch.float64) / 5)
    assert torch.equal(mix.consumers, mix.producers)
    assert not mix.folded
    assert new.channels.tolist() == [2, 3, 4]
    mix, _ = reorganize(carried, by_class, SofmConfig(merge="preserve"), seed=0)
    torch.testing.assert_close(mix.consumers[0], torch.tensor([1, 0.5, 0, 1, 0], dtype=torch.float64))
    torch.testing.assert_close(mix.consumers[1], torch.tensor([0, 0.5, 1, 0, 1], dtype=torch.float64))
    assert mix.folded


def test_channels_that_show_the_same_land_on_the_same_node(graph: CouplingGraph) -> None:
    carried = carried_by(graph, "stage")
    patterns = torch.tensor([[0.0, 0, 0, 0], [9, 0, 9, 0], [18, 1, 18, 0]])
    # Channels 0-5 show patterns 0, 0, 1, 1, 2, 2 for both classes that have images; the class without any has no row.
    mean = patterns[[0, 0, 1, 1, 2, 2]].reshape(1, 6, 2, 2).repeat(2, 1, 1, 1)
    means = ClassMeans(mean, torch.tensor([4, 0, 2]))
    counts, trained = map_channels(means, carried, SofmConfig(ratio=0.5), torch.Generator().manual_seed(0))
    assert counts.shape == (3, 6)
    assert counts.sum(0).tolist() == [2] * 6
    units = counts.argmax(0).tolist()
    assert units[0] == units[1]
    assert units[2] == units[3]
    assert units[4] == units[5]
    assert len(set(units)) == 3
    assert trained.quantization_error < 1.0


def test_the_plan_of_a_target_and_its_determinism(graph: CouplingGraph) -> None:
    generator = torch.Generator().manual_seed(2)
    means = {"stage": ClassMeans(torch.rand(3, 6, 5, 5, generator=generator), torch.tensor([1, 1, 1]))}
    plans = [make_plan(Inputs(graph, ("stage",), {}, seed=11, class_means=means), SofmConfig()) for _ in range(2)]
    assert plans[0].figures == plans[1].figures
    assert plans[0].figures["stem"]["nodes"] == 3
    for one, two in zip(plans[0].edits, plans[1].edits, strict=True):
        assert torch.equal(one.channels, two.channels)
    touched = {change.tensor for change in plans[0].changes()}
    assert touched == {
        *(f"{c}.weight" for c in ("stem", "outer", "inner", "head")),
        *(f"{n}.{p}" for n in ("stem_norm", "outer_norm") for p in ("weight", "bias", "running_mean", "running_var")),
    }


def test_a_group_is_edited_once_and_the_second_target_says_so(graph: CouplingGraph) -> None:
    rest = ClassMeans(torch.rand(3, 6, 5, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 1, 1]))
    made = make_plan(
        Inputs(graph, ("stem_norm", "stage"), {}, class_means={"stem_norm": rest, "stage": rest}), SofmConfig()
    )
    assert sum(isinstance(edit, Mix) for edit in made.edits) == 1
    assert made.skipped == (
        "stage: the channels of 'stem' are left alone: they are edited by an earlier target already.",
    )


def test_activations_that_are_not_finite_are_refused(graph: CouplingGraph) -> None:
    means = ClassMeans(torch.full((3, 6, 5, 5), float("nan")), torch.tensor([1, 1, 1]))
    with pytest.raises(DataError, match="not finite"):
        map_channels(means, carried_by(graph, "stage"), SofmConfig(), torch.Generator())


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"ratio": "0"}, "above 0"),
        ({"ratio": "1.5"}, "above 0"),
        ({"ratio": "much"}, "Give a number"),
        ({"merge": "median"}, r"mean\|preserve"),
        ({"every": "0"}, "at least 1"),
        ({"every": "2.5"}, "a whole number or none"),
        ({"som_epochs": "0"}, "at least 1"),
        ({"ration": "0.5"}, "Did you mean 'ratio'"),
    ],
)
def test_bad_options(values: dict[str, str], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        make_config(METHODS["sofm"], values)


def test_options_are_typed() -> None:
    config = make_config(METHODS["sofm"], {"ratio": "0.25", "every": "none", "consumers": "zero", "som_epochs": 5})
    assert config == SofmConfig(ratio=0.25, consumers="zero", som_epochs=5)
    assert make_config(METHODS["sofm"], {"every": "3"}).every == 3


def test_methods_can_be_called_and_imported() -> None:
    described = surgeon.methods()
    assert [method.name for method in described] == list(METHODS)
    assert {option.name: option.default for option in described[0].options}["ratio"] == 0.5
    assert all(option.help for method in described for option in method.options)
