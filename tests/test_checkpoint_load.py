"""Building the network of a checkpoint and loading it strictly."""

import json
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from surgeon.checkpoint import Architecture, Checkpoint, build, fit, load, read, save
from surgeon.errors import ArchitectureError, CheckpointError

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY / ".." / "shared" / "data" / "checkpoints"
CIFAR = REPOSITORY / "models" / "cifar_resnet.py"


def _checkpoint(tensors: dict[str, Tensor], **metadata: str) -> Checkpoint:
    return Checkpoint(Path("net.pth"), tensors, metadata, "0" * 64)


def _equal(model: nn.Module, state: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet", "test_vit", "test_convnext"])
def test_timm_networks_load_bit_for_bit(tmp_path: Path, name: str) -> None:
    original = timm.create_model(name, num_classes=11)
    path = tmp_path / f"{name}-mine.pth"
    torch.save({"state_dict": original.state_dict()}, path)
    model = load(path)
    assert _equal(model, original.state_dict())
    assert not model.training
    assert model.surgeon_architecture == Architecture("timm", name, {"num_classes": 11})


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "regnet_y_400mf"])
@pytest.mark.parametrize("classes", [1000, 4])
def test_torchvision_networks_load_bit_for_bit(tmp_path: Path, name: str, classes: int) -> None:
    original = torchvision.models.get_model(name, weights=None, num_classes=classes)
    path = tmp_path / "net.pth"
    torch.save(original.state_dict(), path)
    model = load(path, f"torchvision:{name}")
    assert type(model) is type(original)
    assert _equal(model, original.state_dict())
    assert model.surgeon_architecture.arguments == ({} if classes == 1000 else {"num_classes": 4})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("aux_logits", "classes"), [(True, 1000), (False, 1000), (True, 6), (False, 6)])
def test_auxiliary_classifiers_are_built_where_the_checkpoint_has_them(aux_logits: bool, classes: int) -> None:
    original = torchvision.models.googlenet(
        weights=None, init_weights=False, aux_logits=aux_logits, num_classes=classes
    )
    model = build(Architecture("torchvision", "googlenet"), _checkpoint(original.state_dict()))
    assert model.state_dict().keys() == original.state_dict().keys()
    assert model.aux_logits is aux_logits
    assert model.fc.out_features == classes
    wanted = {} if aux_logits else {"aux_logits": False}
    assert model.surgeon_architecture.arguments == wanted | ({} if classes == 1000 else {"num_classes": 6})


def test_a_classifier_is_added_to_a_network_that_has_none_by_default() -> None:
    original = timm.create_model("vit_tiny_patch16_dinov3_qkvb", num_classes=7)
    assert timm.create_model("vit_tiny_patch16_dinov3_qkvb").num_classes == 0
    model = build(Architecture("timm", "vit_tiny_patch16_dinov3_qkvb"), _checkpoint(original.state_dict()))
    assert model.head.out_features == 7


def test_a_missing_classifier_is_not_taken_for_a_wish() -> None:
    state = timm.create_model("test_resnet").state_dict()
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    with pytest.raises(CheckpointError, match=r"fc\.weight: file none"):
        build(Architecture("timm", "test_resnet"), _checkpoint(headless))


def test_the_published_layout_of_a_segmentation_network() -> None:
    original = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    checkpoint = _checkpoint(original.state_dict())
    model = build(Architecture("torchvision", "lraspp_mobilenet_v3_large"), checkpoint)
    fit(model, checkpoint)
    assert _equal(model, original.state_dict())


def test_no_build_downloads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    build(Architecture("torchvision", "lraspp_mobilenet_v3_large"))
    build(Architecture("timm", "resnet18.a1_in1k"))


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_shared_checkpoints(depth: int) -> None:
    paths = list(SHARED.glob(f"resnet{depth}-*.th"))
    if not paths or not CIFAR.exists():
        pytest.skip("the shared checkpoints are not beside the repository")
    model = load(paths[0], f"{CIFAR}:resnet{depth}")
    state = read(paths[0]).tensors
    own = model.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in state)
    assert {name for name in own if name not in state} == {name for name in own if name.endswith("num_batches_tracked")}
    assert str(model.surgeon_architecture) == f"{CIFAR}:resnet{depth}"
    assert model.surgeon_architecture.arguments == {}


FILE = """
from __future__ import annotations
from dataclasses import dataclass
import torch

@dataclass
class Width:
    value: int = 8

class Net(torch.nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        conv, linear = torch.nn.Conv2d(3, width, 3), torch.nn.Linear(width, num_classes)
        self.model = torch.nn.Sequential(conv, torch.nn.Flatten(), linear)
    def forward(self, x):
        return self.model(x)

def with_default(num_classes=10, width=Width().value):
    return Net(num_classes, width)

def required(num_classes):
    return Net(num_classes, 8)

def fixed():
    return Net(10, 8)

def demanding(width, depth):
    return Net(10, width)

def broken():
    return undefined

def no_module():
    return 3

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


def _state(classes: int, width: int = 8) -> dict[str, Tensor]:
    return {
        "0.weight": torch.ones(width, 3, 3, 3),
        "0.bias": torch.ones(width),
        "2.weight": torch.ones(classes, width),
        "2.bias": torch.ones(classes),
    }


@pytest.mark.parametrize(
    ("function", "classes", "arguments"),
    [
        ("with_default", 10, {}),
        ("with_default", 5, {"num_classes": 5}),
        ("required", 10, {"num_classes": 10}),
        ("required", 1000, {"num_classes": 1000}),
        ("fixed", 10, {}),
    ],
)
def test_functions_of_files(tmp_path: Path, file: Path, function: str, classes: int, arguments: dict[str, int]) -> None:
    # All names of this network begin with "model.", which is stripped as a wrapper's prefix on both sides.
    path = tmp_path / "net.pt"
    torch.save({"model." + name: tensor for name, tensor in _state(classes).items()}, path)
    model = load(path, f"{file}:{function}")
    assert model.surgeon_architecture.arguments == arguments
    assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())
    assert model(torch.zeros(1, 3, 3, 3)).shape == (1, classes)


def test_arguments_of_the_header_reach_the_function(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "net.safetensors"
    header = {"architecture": "nets.py:with_default", "architecture_args": json.dumps({"width": 4})}
    safetensors.torch.save_file(_state(10, width=4), path, header)
    assert load(path, f"{file}:with_default").model[0].out_channels == 4


def test_a_fixed_number_of_classes_is_a_misfit(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"2\.weight.*\[7, 8\].*\[10, 8\]"):
        build(Architecture("file", f"{file}:fixed"), _checkpoint(_state(7)))


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("demanding", "width"),
        ("broken", "undefined"),
        ("no_module", "int"),
        ("number", "number"),
        ("nothing", "with_default"),
    ],
)
def test_functions_that_cannot_be_called(file: Path, function: str, hint: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        build(Architecture("file", f"{file}:{function}"))
    assert hint in str(caught.value)


@pytest.mark.parametrize("content", ["def f(:", "import no_such_module", "1 / 0", "raise SystemError"])
def test_files_that_cannot_be_run(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(content)
    with pytest.raises(ArchitectureError) as caught:
        build(Architecture("file", f"{path}:f"))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("timm", "resnet18", {"no_such_argument": 1}),
        Architecture("timm", "resnet18", {"num_classes": "many"}),
        Architecture("timm", "resnet18.no_such_tag"),
        Architecture("torchvision", "resnet18", {"no_such_argument": 1}),
    ],
)
def test_arguments_that_do_not_build(architecture: Architecture) -> None:
    with pytest.raises(ArchitectureError, match="resnet18"):
        build(architecture)


def test_an_absurd_header_costs_no_memory() -> None:
    state = timm.create_model("resnet18").state_dict()
    other = _checkpoint(state | {"conv1.weight": torch.zeros(64, 3, 5, 5)})
    with pytest.raises(CheckpointError, match=r"conv1.weight.*\[64, 1000000000000, 7, 7\]"):
        build(Architecture("timm", "resnet18", {"in_chans": 10**12}), other)
    checkpoint = _checkpoint(state)
    model = build(Architecture("timm", "resnet18", {"num_classes": 10**12}), checkpoint)
    assert model.surgeon_architecture.arguments == {"num_classes": 1000}
    model = build(Architecture("timm", "resnet18", {"in_chans": 10**12}), checkpoint)
    assert model.surgeon_architecture.arguments == {"in_chans": 3}


def test_arguments_for_the_input_reach_the_builder() -> None:
    state = timm.create_model("resnet18", num_classes=5, in_chans=1).state_dict()
    model = build(Architecture("timm", "resnet18", {"num_classes": 5, "in_chans": 1}), _checkpoint(state))
    assert model.conv1.in_channels == 1
    assert model.fc.out_features == 5


@pytest.mark.parametrize(("channels", "classes"), [(1, 1000), (4, 1000), (1, 10), (3, 10)])
@pytest.mark.parametrize("name", ["resnet18", "test_vit"])
def test_input_channels_and_classes_are_read_off_the_tensors(
    tmp_path: Path, name: str, channels: int, classes: int
) -> None:
    original = timm.create_model(name, in_chans=channels, num_classes=classes)
    path = tmp_path / f"{name}.pth"
    torch.save(original.state_dict(), path)
    model = load(path)
    assert _equal(model, original.state_dict())
    wanted = {"in_chans": channels, "num_classes": classes}
    usual = {"in_chans": 3, "num_classes": 1000}
    assert model.surgeon_architecture.arguments == dict(wanted.items() - usual.items())
    save(tmp_path / "out.safetensors", model)
    assert _equal(load(tmp_path / "out.safetensors"), original.state_dict())


def test_input_channels_of_a_function_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "def net(in_channels=3, num_classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    tensors = {"0.weight": torch.ones(4, 1, 3, 3), "0.bias": torch.ones(4)}
    tensors |= {"2.weight": torch.ones(7, 4), "2.bias": torch.ones(7)}
    model = build(Architecture("file", f"{file}:net"), _checkpoint(tensors))
    assert model.surgeon_architecture.arguments == {"in_channels": 1, "num_classes": 7}


def test_the_classifier_is_not_listed_among_tensors_that_misfit_for_another_reason() -> None:
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    broken = state | {"layer2.0.conv1.weight": torch.zeros(5, 5, 5, 5), "surplus": torch.zeros(3)}
    with pytest.raises(CheckpointError) as caught:
        build(Architecture("timm", "test_resnet"), _checkpoint(broken))
    assert "0 missing, 1 surplus, 1 misshapen" in caught.value.problem
    assert "fc." not in caught.value.problem


def test_a_network_of_the_same_name_in_torchvision_is_suggested_where_it_fits() -> None:
    state = torchvision.models.vgg11(num_classes=4, init_weights=False).state_dict()
    with pytest.raises(CheckpointError, match="does not fit vgg11") as caught:
        build(Architecture("timm", "vgg11"), _checkpoint(state))
    assert "--arch torchvision:vgg11" in caught.value.remedy
    with pytest.raises(CheckpointError) as caught:
        build(Architecture("timm", "vgg11"), _checkpoint({"w": torch.zeros(1)}))
    assert "torchvision" not in caught.value.remedy


def test_a_choice_among_several_sets_of_weights_is_announced(tmp_path: Path) -> None:
    first, second = (timm.create_model("test_resnet", num_classes=3).state_dict() for _ in range(2))
    path = tmp_path / "test_resnet.pth"
    torch.save({"model": first, "model_ema": second}, path)
    with pytest.warns(UserWarning, match="model_ema are taken, and not those under model"):
        model = load(path)
    assert _equal(model, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _equal(load(path, weights="model"), first)


def test_preprocessing_of_a_config_reaches_the_model() -> None:
    overlay = {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96]}
    model = build(Architecture("timm", "resnet18", {"pretrained_cfg_overlay": overlay}))
    assert list(model.pretrained_cfg["mean"]) == [0.1, 0.2, 0.3]
    assert list(model.pretrained_cfg["input_size"]) == [3, 96, 96]


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 3))


def _refusal(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fit(model, _checkpoint(tensors))
    assert _equal(model, before)
    return caught.value.problem


def test_missing_surplus_and_misshapen_tensors_are_listed_with_both_shapes() -> None:
    tensors = dict(_small().state_dict())
    del tensors["0.bias"]
    tensors["2.weight"] = torch.zeros(5, 2)
    tensors["extra"] = torch.zeros(7)
    problem = _refusal(_small(), tensors)
    assert "1 missing, 1 surplus, 1 misshapen" in problem
    lines = [line.strip() for line in problem.splitlines()[1:]]
    assert lines == [
        "0.bias: file none, network [2]",
        "2.weight: file [5, 2], network [3, 2]",
        "extra: file [7], network none",
    ]


# torch would warn of layers without weights.
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv1.weight", (0, 3, 7, 7)), ("conv1.weight", (64, 0, 7, 7)), ("fc.weight", (0, 512)), ("more", (0, 2))],
)
def test_nothing_is_built_for_tensors_without_numbers(name: str, shape: tuple[int, ...]) -> None:
    architecture = Architecture("timm", "resnet18", {"num_classes": 2})
    tensors = timm.create_model("resnet18", num_classes=2).state_dict() | {name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=name):
        build(architecture, _checkpoint(tensors))


def test_the_list_ends_after_ten() -> None:
    problem = _refusal(_small(), {f"t{index:02}": torch.zeros(1) for index in range(20)})
    lines = problem.splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "and 18 more"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, dtype: torch.dtype) -> None:
    tensors = dict(_small().state_dict())
    tensors["1.running_var"] = torch.tensor([1.0, bad], dtype=dtype)
    problem = _refusal(_small(), tensors)
    assert "1.running_var" in problem
    assert "0.weight" not in problem


def test_variances_below_zero_are_refused_by_name() -> None:
    tensors = dict(_small().state_dict())
    tensors["1.running_mean"] = torch.tensor([-1.0, -2.0])
    tensors["1.running_var"] = torch.tensor([0.0, -1e-9])
    assert "has running variances below zero in 1.running_var." in _refusal(_small(), tensors)
    tensors["1.running_var"] = torch.tensor([0.0, 1e-9])
    fit(_small(), _checkpoint(tensors))


def test_float64_beyond_float32_is_refused() -> None:
    tensors = dict(_small().state_dict())
    tensors["0.bias"] = torch.tensor([1.0, 1e300], dtype=torch.float64)
    assert "0.bias" in _refusal(_small(), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_into_float32(dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in _small().state_dict().items()}
    model = _small()
    fit(model, _checkpoint(tensors))
    own = model.state_dict()
    assert own["0.weight"].dtype == torch.float32
    assert torch.equal(own["0.weight"], tensors["0.weight"].float())
    assert own["1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("value", [torch.zeros(2, dtype=torch.int8), torch.zeros(2, dtype=torch.complex64)])
def test_numbers_of_another_kind_are_refused(value: Tensor) -> None:
    problem = _refusal(_small(), dict(_small().state_dict()) | {"0.bias": value})
    assert f"file [2] {str(value.dtype).removeprefix('torch.')}, network [2] float32" in problem


def test_batch_counters_may_be_missing_or_overflown() -> None:
    # A checkpoint cast to float16 as a whole holds its counter as float16, which ends at 65,504.
    source = _small()
    nn.init.constant_(source[1].running_mean, 3)
    missing = {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name}
    overflown = missing | {"1.num_batches_tracked": torch.tensor(float("inf"), dtype=torch.float16)}
    for tensors in (missing, overflown):
        model = _small()
        fit(model, _checkpoint(tensors))
        assert model[1].running_mean.tolist() == [3, 3]
        assert model[1].num_batches_tracked.item() == 0


def test_shared_tensors_are_loaded_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = {name: torch.full_like(tensor, 2) for name, tensor in model.state_dict().items()}
    fit(model, _checkpoint(state))
    assert model[0].weight is model[1].weight
    assert bool((model[0].weight == 2).all())


def test_load_names_file_and_network_where_they_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in caught.value.problem
    assert "resnet18" in caught.value.problem
    assert "--arch" in caught.value.remedy
