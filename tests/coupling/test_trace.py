"""What `trace` takes, gives and leaves alone."""

import copy
import inspect
from typing import Any

import pytest
import torch
from nets import NETWORKS
from torch import nn

from surgeon.coupling import CouplingGraph, trace
from surgeon.edit.permute import permute
from surgeon.edit.verify import prove
from surgeon.errors import LayerError, TraceError

Summary = list[tuple[Any, ...]]


def summary(graph: CouplingGraph) -> Summary:
    """Return everything that a graph says, in its order."""
    groups = [
        (
            group.name,
            group.size,
            group.homogeneous,
            group.writers,
            [(m.tensor, m.dim, m.role, str(m.rows), m.positions.tolist()) for m in group.members],
        )
        for group in graph.groups
    ]
    return [*groups, *((axis.tensor, axis.dim, axis.reason) for axis in graph.frozen)]


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name].build()


def traced(name: str) -> CouplingGraph:
    return trace(built(name), NETWORKS[name].inputs())


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class Stages(nn.Module):
    """A residual network of two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.stage1 = nn.Sequential(Block(4, 6), Block(4, 8))
        self.stage2 = nn.Sequential(nn.Conv2d(4, 10, 1, stride=2), Block(10, 12))
        self.fc = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.fixture(scope="module")
def stages() -> CouplingGraph:
    return trace(Stages(), IMAGES)


def test_groups_stand_in_execution_order_and_are_named_after_the_module_that_first_carries_them(
    stages: CouplingGraph,
) -> None:
    assert [(group.name, group.size) for group in stages.groups] == [
        ("stem.0", 4),
        ("stage1.0.conv1", 6),
        ("stage1.1.conv1", 8),
        ("stage2.0", 10),
        ("stage2.1.conv1", 12),
    ]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("stem", ["stem.0"]),
        ("stem.2", ["stem.0"]),
        ("stage1", ["stem.0"]),
        ("stage1.0", ["stem.0"]),
        ("stage1.0.conv1", ["stage1.0.conv1"]),
        ("stage1.0.bn1", ["stage1.0.conv1"]),
        ("stage1.1.conv2", ["stem.0"]),
        ("stage2", ["stage2.0"]),
        ("stage2.1.conv1", ["stage2.1.conv1"]),
        ("fc", []),
    ],
)
def test_at_gives_the_groups_of_a_stage_a_block_or_a_layer(stages: CouplingGraph, name: str, groups: list[str]) -> None:
    assert [group.name for group in stages.at(name)] == groups


def test_at_refuses_a_module_that_computes_nothing(stages: CouplingGraph) -> None:
    with pytest.raises(LayerError, match="'stage9'"):
        stages.at("stage9")


def test_outputs_say_where_a_module_carries_which_channels() -> None:
    graph = traced("Split")
    joined = {carried.group.name: carried for carried in graph.outputs.carried("stem")}
    (carried,) = joined.values() if len(joined) == 1 else (joined["stem"],)
    assert (carried.dim, carried.positions.shape[1]) == (1, 1)
    positions = sorted(p for c in graph.outputs.carried("stem") for p in c.positions.flatten().tolist())
    assert positions == list(range(8))


def test_writers_name_weight_bias_and_the_batch_norm_right_behind(stages: CouplingGraph) -> None:
    first, second = stages.groups[0], stages.groups[3]
    assert [(w.weight, w.bias, w.norm.running_var if w.norm else None) for w in first.writers] == [
        ("stem.0.weight", None, "stem.1.running_var"),
        ("stage1.0.conv2.weight", None, "stage1.0.bn2.running_var"),
        ("stage1.1.conv2.weight", None, "stage1.1.bn2.running_var"),
    ]
    norm = first.writers[0].norm
    assert norm is not None
    assert (norm.weight, norm.bias, norm.running_mean, norm.eps) == (
        "stem.1.weight",
        "stem.1.bias",
        "stem.1.running_mean",
        1e-5,
    )
    assert [(w.weight, w.bias, w.norm is None) for w in second.writers] == [
        ("stage2.0.weight", "stage2.0.bias", True),
        ("stage2.1.conv2.weight", None, False),
    ]


class TwoNorms(nn.Module):
    """One convolution called twice, with a BatchNorm of its own for each call."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(3)
        self.bn2 = self.bn1 if same else nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn1(self.conv(x)) + self.bn2(self.conv(x * 2)))


def test_a_weight_with_several_batch_norms_has_none_of_its_own() -> None:
    (group,) = trace(TwoNorms(same=False), IMAGES).groups
    assert [(writer.weight, writer.norm) for writer in group.writers] == [("conv.weight", None)]
    (group,) = trace(TwoNorms(same=True), IMAGES).groups
    assert [writer.norm.bias for writer in group.writers] == ["bn1.bias"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Chain", {"stem": True, "conv": True}),
        ("Residual", {"stem": True, "conv1": True}),
        ("ZeroPaddedShortcut", {"stem": True, "conv1": True, "conv2": True}),
        ("FlattenLinear", {"stem": True}),
        ("BatchNorm", {"stem": False, "conv": False}),  # the first is not behind a producer, the second has no scale
        ("TokenMixing", {"stem": False, "fc1": False}),  # the bias of the tokens, GELU
        ("WeightNorm", {"stem": False, "conv": False}),
        ("WeightStandardized", {"stem": False, "conv": False}),
        ("Tied", {"stem": True, "conv1": True}),
        ("TiedTransposed", {"stem": False, "encode": False}),  # one axis both writes and reads
        ("InstanceNorm", {"stem": True}),
        ("TransposedDepthwise", {"stem": True}),
        ("DynamicConvolution", {"stem": False, "attend": False, "experts": False}),
        ("Prelu", {"stem": True}),
        ("LayerScale", {"stem": True}),
        ("FixedBlur", {"stem": True}),
        ("Maxout", {"stem": True, "conv": True}),
        ("UpsampleAndFuse", {"stem": True, "coarse": True}),
        ("Depthwise", {"stem": False}),  # relu6
        ("SqueezeExcite", {"stem": False, "fc1": True}),
        ("SpatialGate", {"stem": False}),  # the mean over the channels
        ("SummedByOnes", {"stem": False}),
        ("SoftmaxOverChannels", {"stem": False}),
        ("GatedLinearUnit", {"stem": True, "conv": False}),
        ("SelectiveKernel", {"stem": True, "conv1": False, "fc1": True}),
        ("LearnedActivation", {"stem": False}),
        ("GroupNormOfOne", {"stem": False}),
        ("LayerNorm", {"stem": False, "fc1": False}),  # LayerNorm, GELU
        ("RmsNorm", {"stem": False}),
        ("InstanceNormLive", {"stem": False}),
        ("CumulatedPixels", {"stem": True}),
        ("InPlace", {"stem": False}),  # the sigmoid before the head
    ],
)
def test_homogeneous_says_whether_a_factor_passes_from_producers_to_consumers(
    name: str, expected: dict[str, bool]
) -> None:
    assert {group.name: group.homogeneous for group in traced(name).groups} == expected


def test_values_of_attention_are_homogeneous_and_queries_are_not() -> None:
    graph = traced("SeparateAttention")
    kinds = {(group.name, group.homogeneous) for group in graph.groups}
    assert kinds == {("stem", True), ("q", False), ("v", True)}


@pytest.mark.parametrize("name", ["Chain", "Residual", "Prelu", "UpsampleAndFuse", "Maxout"])
def test_a_factor_on_producers_and_its_inverse_on_consumers_cancel_in_homogeneous_groups(name: str) -> None:
    """The oracle of `homogeneous`: only vectors that add (shift, mean) or write scale along, slopes do not."""
    model = built(name).double().eval()
    inputs = tuple(x.double() for x in NETWORKS[name].inputs())
    expected = model(*inputs)
    tensors = model.state_dict(keep_vars=True)
    slopes = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.PReLU)}
    scales = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for group in traced(name).groups:
        assert group.homogeneous
        factor = torch.rand(group.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
        normed = {writer.weight for writer in group.writers if writer.norm is not None}
        for member in group.members:
            if member.tensor in slopes | normed or member.role == "statistic":
                continue
            if normed and member.tensor.endswith("bias") and member.tensor.replace("bias", "weight") in normed:
                continue
            tensor = tensors[member.tensor].data
            by = (1 / factor if member.role == "consumer" else factor)[:, None].expand(member.positions.shape)
            shape = [-1 if d == member.dim else 1 for d in range(tensor.dim())]
            ordered = torch.ones(tensor.shape[member.dim], dtype=torch.float64)
            ordered[member.positions.flatten()] = by.flatten()
            assert member.tensor not in scales or member.role == "affine"
            tensor.mul_(ordered.view(shape))
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["Residual", "CatShuffled", "Grouped", "TransposedGrouped", "FlattenLinear", "Tied", "MultiheadAttention"]
)
def test_a_permutation_and_its_inverse_give_back_every_bit(name: str) -> None:
    model, graph = built(name), traced(name)
    before = copy.deepcopy(model.state_dict())
    orders = [torch.randperm(group.size, generator=torch.Generator().manual_seed(3)) for group in graph.groups]
    for group, order in zip(graph.groups, orders, strict=True):
        permute(model, group, order)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    for group, order in zip(graph.groups, orders, strict=True):
        permute(model, group, order.argsort())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_positions_of_a_flattened_channel_are_all_its_pixels() -> None:
    (group,) = traced("FlattenLinear").groups
    member = next(m for m in group.members if m.tensor == "fc.weight")
    assert (member.dim, member.role, member.rows) == (1, "consumer", None)
    assert torch.equal(member.positions, torch.arange(64).view(4, 16))


def test_rows_tell_which_filters_of_a_grouped_convolution_read_the_channels() -> None:
    by_rows = {m.rows.start: (g, m) for g in traced("Grouped").groups for m in g.members if m.rows is not None}
    assert sorted(by_rows) == [0, 6]
    group, member = by_rows[6]
    assert (member.tensor, member.dim, member.role, member.rows) == ("conv.weight", 1, "consumer", slice(6, 12))
    assert member.positions.flatten().tolist() == [0, 1, 2, 3]
    assert next(m for m in group.members if m.tensor == "stem.weight").positions.flatten().tolist() == [4, 5, 6, 7]
    model = built("Grouped")
    before = model.conv.weight.detach().clone()
    permute(model, group, [1, 0, 2, 3])
    assert torch.equal(model.conv.weight[:6], before[:6])
    assert torch.equal(model.conv.weight[6:], before[6:, [1, 0, 2, 3]])


def test_new_channel_i_is_the_old_channel_that_the_permutation_names() -> None:
    model, graph = built("Chain"), traced("Chain")
    before = copy.deepcopy(model.state_dict())
    permute(model, graph.groups[1], [2, 0, 1, 5, 3, 4])
    assert torch.equal(model.conv.weight, before["conv.weight"][[2, 0, 1, 5, 3, 4]])
    assert torch.equal(model.fc.weight, before["fc.weight"][:, [2, 0, 1, 5, 3, 4]])


def test_the_model_is_left_as_it_was() -> None:
    model = built("AuxiliaryHead")
    model.main.weight.requires_grad_(False)
    model.aux.eval()
    calls = []
    handles = [
        model.stem.register_forward_hook(lambda *_: calls.append("forward")),
        model.stem.register_forward_pre_hook(lambda *_: calls.append("pre")),
    ]
    model.register_buffer("count", torch.tensor(3.0))
    before = {key: (value, value.clone(), value.data_ptr()) for key, value in model.state_dict(keep_vars=True).items()}
    modes = {name: module.training for name, module in model.named_modules()}
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    graph = trace(model, NETWORKS["AuxiliaryHead"].inputs())

    assert graph.groups
    assert calls == []
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for key, (tensor, copied, pointer) in before.items():
        assert after[key] is tensor
        assert after[key].data_ptr() == pointer
        assert torch.equal(after[key], copied)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == grads
    assert all(parameter.grad is None for parameter in model.parameters())
    model(*NETWORKS["AuxiliaryHead"].inputs())
    assert calls == ["pre", "forward"]
    for handle in handles:
        handle.remove()


def test_mode_and_gradients_make_no_difference() -> None:
    model = built("Chain")
    reference = summary(trace(model.eval(), NETWORKS["Chain"].inputs()))
    model.train().requires_grad_(False)
    assert summary(trace(model, NETWORKS["Chain"].inputs())) == reference


@pytest.mark.parametrize(
    "name", ["Chain", "Grouped", "FusedAttention", "FixedBlur", "WeightNorm", "Tied", "AuxiliaryHead", "StoredBlur"]
)
def test_a_model_on_the_meta_device_has_the_same_graph(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name].build()
    if name == "FixedBlur":
        # A constant without values could be anything, so that it freezes; everything else is known from shapes.
        assert trace(model, NETWORKS[name].inputs()).groups == ()
        return
    assert summary(trace(model, NETWORKS[name].inputs())) == summary(traced(name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_have_the_same_graph(dtype: torch.dtype) -> None:
    inputs = tuple(x.to(dtype) for x in NETWORKS["Residual"].inputs())
    assert summary(trace(built("Residual").to(dtype), inputs)) == summary(traced("Residual"))


@pytest.mark.parametrize("name", ["DenseConcat", "SplitAttention", "TransformerLayer", "ZeroPaddedShortcut"])
def test_two_traces_are_equal(name: str) -> None:
    assert summary(traced(name)) == summary(traced(name))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.mask, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(1, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, image: torch.Tensor, extra: dict[str, list[torch.Tensor]], scale: float = 1.0) -> torch.Tensor:
        return self.head(torch.relu(self.image(image) + self.mask(extra["masks"][0]) * scale))


@pytest.mark.parametrize(
    "example",
    [
        (IMAGES, {"masks": [IMAGES[:, :1]]}),
        (IMAGES, {"masks": [IMAGES[:, :1]]}, 2.0),
        {"image": IMAGES, "extra": {"masks": [IMAGES[:, :1]]}},
        {"extra": {"masks": [IMAGES[:, :1].to("meta")]}, "image": IMAGES.to("meta"), "scale": 0.5},
    ],
)
def test_example_inputs_of_any_structure(example: Any) -> None:
    (group,) = trace(TwoInputs(), example).groups
    assert {(m.tensor, m.dim) for m in group.members} == {
        ("image.weight", 0),
        ("image.bias", 0),
        ("mask.weight", 0),
        ("mask.bias", 0),
        ("head.weight", 1),
    }


def test_an_example_input_may_be_a_single_tensor_of_any_batch_size() -> None:
    reference = summary(trace(built("Chain"), IMAGES))
    assert summary(trace(built("Chain"), (IMAGES,))) == reference
    assert summary(trace(built("Chain"), torch.zeros(5, 3, 8, 8))) == reference
    assert summary(trace(built("Chain"), torch.zeros(1, 3, 8, 8))) == reference


def test_without_an_example_input_the_size_is_that_of_the_models_configuration() -> None:
    model = built("FlattenLinear")
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    assert summary(trace(model)) == summary(traced("FlattenLinear"))
    with pytest.raises(TraceError):
        trace(built("FlattenLinear"))


def test_a_submodule_is_traced_under_its_names_in_the_whole_network() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.ModuleDict({"backbone": Stages()})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("only its backbone can be traced")

    model = Detector()
    graph = trace(model, IMAGES, submodule="model.backbone")
    assert [group.name for group in graph.groups][:2] == ["model.backbone.stem.0", "model.backbone.stage1.0.conv1"]
    assert [group.name for group in graph.at("model.backbone.stage2")] == ["model.backbone.stage2.0"]
    keys = set(model.state_dict())
    assert {m.tensor for group in graph.groups for m in group.members} <= keys
    assert {axis.tensor for axis in graph.frozen} <= keys
    permute(model, graph.groups[0], [1, 0, 3, 2])
    with pytest.raises(TraceError, match=r"'model\.backbone\.stem\.0'"):
        trace(model, torch.zeros(2, 5, 8, 8), submodule="model.backbone")


def test_the_graph_of_a_submodule_is_that_of_the_network_without_the_rest() -> None:
    model, images = Stages(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = trace(model, torch.zeros(2, 4, 8, 8), submodule="stage1")
    assert [group.name for group in graph.groups] == ["stage1.0.conv1", "stage1.1.conv1"]
    frozen = {(axis.tensor, axis.dim): axis.reason for axis in graph.frozen}
    assert "input" in frozen["stage1.0.conv1.weight", 1]
    assert prove(model, graph, (images,)).holds


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            return x
        return -x


class Hesitant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.middle = nn.Sequential(nn.ReLU(), DataDependent())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.middle(self.stem(x))


def test_what_cannot_be_traced_is_an_error_that_names_module_and_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Hesitant(), IMAGES)
    lines, start = inspect.getsourcelines(DataDependent)
    line = start + next(i for i, text in enumerate(lines) if "if x.mean()" in text)
    assert "'middle.1'" in caught.value.problem
    assert f"{__file__}:{line}" in caught.value.problem
    assert caught.value.remedy


def test_a_wrong_input_is_an_error_that_names_the_module() -> None:
    with pytest.raises(TraceError, match=r"'stem\.0'"):
        trace(Stages(), torch.zeros(2, 5, 8, 8))


class JoinedWeights(nn.Module):
    """One weight put together from two parameters, along its rows or along its columns."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.stem = dim, nn.Conv2d(3, 8, 1)
        self.first, self.second = (nn.Parameter(torch.randn(6, 4) if dim else torch.randn(3, 8)) for _ in range(2))
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.cat([self.first, self.second], self.dim)[:, :, None, None]
        return self.head(torch.relu(nn.functional.conv2d(torch.relu(self.stem(x)), weight)))


@pytest.mark.parametrize(("dim", "bent"), [(0, {"first", "stem.weight"}), (1, {"first", "head.weight"})])
def test_channels_along_which_weights_are_joined_are_not_homogeneous(dim: int, bent: set[str]) -> None:
    groups = trace(JoinedWeights(dim), IMAGES).groups
    joined = [g for g in groups if {"first", "second"} <= {m.tensor for m in g.members}]
    apart = [g for g in groups if g not in joined]
    assert len(joined) == 1
    assert bent <= {m.tensor for m in joined[0].members}
    assert not joined[0].homogeneous
    assert apart
    assert all(group.homogeneous for group in apart)


class Undecided(nn.Module):
    """An auxiliary head in training, in which a branch depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.aux = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.stem(x))
        if not self.training:
            return self.head(x)
        return self.head(x), self.aux(x) if x.mean() > 0 else self.aux(-x)


def test_what_is_unused_says_so_if_training_mode_cannot_be_recorded() -> None:
    reasons = {(axis.tensor, axis.dim): axis.reason for axis in trace(Undecided(), IMAGES).frozen}
    for key in (("aux.weight", 0), ("aux.weight", 1), ("aux.bias", 0)):
        assert "training mode cannot be recorded" in reasons[key]
    assert "training mode" not in reasons["head.weight", 0]
    assert "training mode" not in " ".join(axis.reason for axis in traced("UnusedLayer").frozen)


def test_a_network_without_parameters_has_no_groups() -> None:
    graph = trace(nn.ReLU(), IMAGES)
    assert (graph.groups, graph.frozen) == ((), ())
