"""The CIFAR ResNets: the paper's sizes, others' checkpoints, and the accuracy that these were measured to have."""

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import resolve_data_config
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
CHECKPOINTS = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cifar_resnet = _load_file(REPOSITORY / "models" / "cifar_resnet.py")


def _shared_state(name: str) -> dict[str, torch.Tensor]:
    path = SHARED / "checkpoints" / CHECKPOINTS[name]
    if not path.exists():
        pytest.skip("the shared checkpoints are not beside the repository")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("module."): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "millions", "exact"),
    [
        # By hand for ResNet-20: 432+32 (stem), 13824+192, 50688+384, 202752+768 (stages), 650 (linear).
        ("resnet20", 0.27, 269_722),
        # Every further block a stage adds 4672 + 18560 + 73984 parameters.
        ("resnet32", 0.46, 269_722 + 2 * 97_216),
        ("resnet44", 0.66, 269_722 + 4 * 97_216),
        ("resnet56", 0.85, 269_722 + 6 * 97_216),
        ("resnet110", 1.7, 269_722 + 15 * 97_216),
        # Not in that table: RePr's table 4 has it, with 2,894 thousand beside the linear layer.
        ("resnet182", 2.9, 269_722 + 27 * 97_216),
    ],
)
def test_parameter_counts_are_those_of_table_6(name: str, millions: float, exact: int) -> None:
    model = getattr(cifar_resnet, name)()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == exact
    assert f"{count / 1e6:.2g}" == f"{millions:.2g}"


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("resnet56", 56), ("resnet110", 110)])
def test_depth_counts_convolutions_and_the_linear_layer(name: str, depth: int) -> None:
    model = getattr(cifar_resnet, name)()
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_shared_checkpoints_load_strictly(name: str) -> None:
    model = getattr(cifar_resnet, name)()
    state = _shared_state(name)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.layer3[0].bn2.running_var, state["layer3.0.bn2.running_var"])


def test_shortcut_takes_every_second_pixel_and_pads_both_sides_of_the_channels() -> None:
    image = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = cifar_resnet.ZeroPadShortcut(2)(image)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 0].count_nonzero() == 0
    assert out[0, 3].count_nonzero() == 0
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[16, 18], [24, 26]]


def test_zero_padding_is_one_pad_in_the_exported_graph() -> None:
    model = cifar_resnet.resnet20().eval()
    exported = torch.export.export(model, (torch.zeros(2, 3, 32, 32),), strict=False)
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("pad" in name for name in called) == 2
    assert not any("cat" in name or "zeros" in name for name in called)


def test_timm_resolves_the_data_configuration() -> None:
    model = cifar_resnet.resnet20(num_classes=7)
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (3, 32, 32)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert config["std"] == (0.229, 0.224, 0.225)
    assert config["interpolation"] == "bilinear"
    assert config["crop_pct"] == 1.0
    assert model.num_classes == 7
    assert model.get_submodule(model.pretrained_cfg["classifier"]).out_features == 7


def test_resnet20_reaches_its_measured_accuracy_on_the_shared_images() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = SHARED / "cifar10" / "test.parquet"
    if not path.exists():
        pytest.skip("the shared images are not beside the repository")
    model = cifar_resnet.resnet20().eval()
    model.load_state_dict(_shared_state("resnet20"))
    table = parquet.read_table(path).slice(0, 1000)
    files = table.column("image").combine_chunks().field("bytes").to_pylist()
    pixels = [to_tensor(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    images = torch.stack(pixels)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in ((images - mean) / std).split(250)])
    top1 = (predicted == torch.tensor(table.column("label").to_pylist())).double().mean().item()
    # 81.03 % on all 10,000 images; three standard errors of 1,000 images are 3.7 points.
    assert top1 == pytest.approx(0.8103, abs=0.037)


def test_a_block_is_two_convolutions_beside_its_input() -> None:
    block = cifar_resnet.BasicBlock(4, 4).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), functional.relu(x))


def test_the_digits_checkpoint_is_what_its_readme_says() -> None:
    """Read and scored without surgeon's own data and evaluation."""
    path = REPOSITORY / "models" / "resnet20-digits.safetensors"
    model = cifar_resnet.resnet20().eval()
    model.load_state_dict(load_file(path))
    digits = load_digits()
    _, held_out = train_test_split(range(1797), test_size=360, stratify=digits.target, random_state=0)
    pixels = (digits.images[held_out] * (255 / 16)).round().astype("uint8")
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    large = [Image.fromarray(image).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR) for image in pixels]
    images = torch.stack([(to_tensor(image) - mean) / std for image in large])
    with torch.no_grad():
        right = (model(images).argmax(1) == torch.from_numpy(digits.target[held_out])).sum().item()
    assert right == 360
    with safe_open(path, "pt") as file:
        assert file.metadata()["architecture"] == "models/cifar_resnet.py:resnet20"
        assert file.metadata()["top1"] == "100.00"
