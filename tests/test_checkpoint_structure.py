"""Files of resized networks: written, built again from the file alone, and refused where they ask for nonsense."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from bad_structures import NAME, STRUCTURE, bad_structures, resized_network
from torch import nn

import surgeon
from surgeon.checkpoint import Architecture, build, read
from surgeon.checkpoint.structure_header import MARKER, STRUCTURE_KEY, from_text, to_text
from surgeon.errors import ArchitectureError, CheckpointError, OutputError
from surgeon.structure import CrossAttentionConv2d, CrossSets, Structure, rebuild, remember, structure_of

IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
TEXT = to_text(STRUCTURE)
BAD = list(bad_structures(TEXT))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return resized_network()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resized") / "mine.safetensors"
    surgeon.save(path, network)
    return path


def rewritten(file: Path, to: Path, changes: dict[str, Any]) -> Path:
    """Write a file again with other metadata; what is None is left out."""
    tensors = safetensors.torch.load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        metadata = {**opened.metadata(), **changes}
    safetensors.torch.save_file(tensors, to, {key: value for key, value in metadata.items() if value is not None})
    return to


def test_the_file_alone_makes_the_network_again(network: nn.Module, file: Path) -> None:
    loaded = surgeon.load(file)
    assert structure_of(loaded) == STRUCTURE
    assert isinstance(loaded.layer3[0].conv2, CrossAttentionConv2d)
    assert repr(loaded) == repr(network)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), network(IMAGES))
    assert {tensor.device.type for tensor in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert MARKER not in read(file).tensors


def test_written_again_it_is_the_same_file(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    surgeon.save(again, surgeon.load(file))
    assert again.read_bytes() == file.read_bytes()


class Wrapper(nn.Module):
    """Holds a network, or calls one layer after the other."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def test_wrappers_lose_nothing(network: nn.Module, tmp_path: Path) -> None:
    compiled = Wrapper(_orig_mod=network)
    layers = Wrapper(**dict(network.named_children()))
    vars(layers)["surgeon_structure"] = Structure(STRUCTURE.widths)
    surgeon.save(tmp_path / "a.safetensors", nn.DataParallel(network))
    assert str(vars(surgeon.load(tmp_path / "a.safetensors"))["surgeon_architecture"]) == NAME
    for wrapper in (nn.DataParallel(network), compiled, nn.DataParallel(Wrapper(model=network)), layers):
        surgeon.save(tmp_path / "a.safetensors", wrapper, overwrite=True)
        loaded = surgeon.load(tmp_path / "a.safetensors", NAME)
        assert structure_of(loaded) == STRUCTURE
        with torch.no_grad():
            assert torch.equal(loaded(IMAGES), network(IMAGES))


def test_layers_that_were_replaced_since_are_written_as_they_are(tmp_path: Path) -> None:
    model = resized_network(Structure({**STRUCTURE.widths, "fc": {"out_features": 7}}, STRUCTURE.attention))
    model.fc = nn.Linear(model.fc.in_features, 6)
    part = model.layer3[0]
    part.conv2 = nn.Conv2d(40, 24, 3, padding=1, bias=part.conv2.bias is not None)
    surgeon.save(tmp_path / "a.safetensors", model)
    loaded = surgeon.load(tmp_path / "a.safetensors")
    assert not structure_of(loaded).attention
    assert loaded(IMAGES).shape == (2, 6)


def test_the_header_by_hand(file: Path) -> None:
    structure = Structure({"b": {"in_channels": 2, "groups": 1}}, {"a": CrossSets((0, 2), (1,))})
    text = '{"attention":{"a":{"read":[1],"written":[0,2]}},"version":1,"widths":{"b":{"groups":1,"in_channels":2}}}'
    assert to_text(structure) == text
    assert from_text(text, file) == structure


def test_other_loaders_refuse_it_by_a_name_that_says_what_to_do(file: Path) -> None:
    for structure in (STRUCTURE, Structure({}, {"layer3.0.conv2": CrossSets((1,), (1,))})):
        path = file.with_name("other.safetensors")
        surgeon.save(path, resized_network(structure), overwrite=True)
        with pytest.raises(RuntimeError, match=r"load_this_file_with_surgeon\.load"):
            timm.create_model(NAME, num_classes=10, checkpoint_path=str(path))


def test_networks_as_they_were_built_are_written_as_before(tmp_path: Path) -> None:
    model = timm.create_model(NAME)
    surgeon.save(tmp_path / "a.safetensors", model)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert STRUCTURE_KEY not in opened.metadata()
    assert MARKER not in safetensors.torch.load_file(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("what", "text", "words"), BAD, ids=[what for what, *_ in BAD])
def test_bad_structures_are_refused(file: Path, tmp_path: Path, what: str, text: str, words: str) -> None:
    path = rewritten(file, tmp_path / "bad.safetensors", {STRUCTURE_KEY: text})
    with pytest.raises(CheckpointError, match=words) as refused:
        surgeon.load(path)
    assert str(path) in refused.value.problem
    assert refused.value.remedy
    assert all(line.isprintable() and len(line) < 700 for line in str(refused.value).splitlines())


def test_layers_that_do_not_fit_each_other_are_refused(file: Path, tmp_path: Path) -> None:
    model = timm.create_model(NAME, num_classes=10)
    # Every tensor is as the header says, but the shortcut has another width than what is added to it.
    structure = Structure({"layer3.0.conv3": {"out_channels": 9}, "layer3.0.bn3": {"num_features": 9}})
    rebuild(model, structure, lambda name, tensor, shape: torch.ones(shape))
    path = tmp_path / "bad.safetensors"
    surgeon.save(path, model)
    with pytest.raises(CheckpointError, match=r"do not fit each other: at layer3\.0"):
        surgeon.load(path, NAME)


def test_without_the_header_it_says_what_to_do(file: Path, tmp_path: Path) -> None:
    path = rewritten(file, tmp_path / "bare.safetensors", {STRUCTURE_KEY: None})
    with pytest.raises(CheckpointError, match=r"Load the \.safetensors file as surgeon wrote it, with surgeon\.load"):
        surgeon.load(path)
    torch.save(resized_network(Structure(STRUCTURE.widths)).state_dict(), tmp_path / f"{NAME}-a.pth")
    with pytest.raises(CheckpointError, match=r"If it was resized: Load the \.safetensors file as surgeon wrote it"):
        surgeon.load(tmp_path / f"{NAME}-a.pth")
    # With cross-attention alone, nothing but torch's metadata tells the weights from others.
    attending = nn.DataParallel(resized_network(Structure({}, {"layer3.0.conv2": CrossSets((1,), (1,))})))
    torch.save({"state_dict": attending.state_dict()}, tmp_path / f"{NAME}-b.pth")
    with pytest.raises(CheckpointError, match=r"cross-attention \(in layer3\.0\.conv2\)"):
        surgeon.load(tmp_path / f"{NAME}-b.pth")


@pytest.mark.parametrize("arguments", [{}, {"in_chans": 4, "num_classes": 7}], ids=["unknown", "known"])
def test_the_images_and_classes_of_a_resized_network(tmp_path: Path, arguments: dict[str, int]) -> None:
    model = timm.create_model(NAME, in_chans=4, num_classes=7)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    widths = {
        first: {"in_channels": 4},
        "fc": {"out_features": 7},
        **STRUCTURE.widths,
    }
    rebuild(model, Structure(widths), lambda name, tensor, shape: torch.ones(shape))
    # As where these layers were resized on their other side: all their sizes are remembered.
    remember(model, Structure(widths))
    surgeon.save(tmp_path / "a.safetensors", model, architecture=Architecture("timm", NAME, arguments))
    loaded = surgeon.load(tmp_path / "a.safetensors")
    assert loaded.num_classes == 7
    assert vars(loaded)["surgeon_architecture"].arguments == {"in_chans": 4, "num_classes": 7}
    assert structure_of(loaded) == Structure(STRUCTURE.widths)
    assert loaded(torch.ones(1, 4, 32, 32)).shape == (1, 7)


def test_another_architecture_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match="which the network lacks"):
        surgeon.load(file, "test_convnext")


def test_nothing_is_allocated_for_what_the_arguments_ask(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The structure makes a huge network small, which is never made as it is built."""
    model = timm.create_model(NAME, num_classes=10)
    # 2,000,000 classes of 256 features take 2 GB; the structure and the file give the classifier ten.
    surgeon.save(tmp_path / "a.safetensors", model)
    arguments = json.dumps({"num_classes": 2_000_000})
    structure = to_text(Structure({"fc": {"out_features": 10}}))
    header = {"architecture": NAME, "architecture_args": arguments, STRUCTURE_KEY: structure}
    path = rewritten(tmp_path / "a.safetensors", tmp_path / "b.safetensors", header)
    with pytest.raises(ArchitectureError, match=r"num_classes .* is 2000000, and no tensor"):
        surgeon.load(path)
    path = rewritten(path, tmp_path / "c.safetensors", {"architecture_args": json.dumps({"num_classes": 2**16})})
    without: dict[str, tuple[bool, torch.Size]] = {}
    builder = sys.modules["surgeon.checkpoint.build"]
    give = builder._give_memory

    def look(model: nn.Module) -> None:
        without.update({name: (tensor.is_meta, tensor.shape) for name, tensor in model.named_parameters()})
        give(model)

    monkeypatch.setattr(builder, "_give_memory", look)
    loaded = surgeon.load(path)
    assert without == {name: (True, tensor.shape) for name, tensor in loaded.named_parameters()}
    assert loaded.fc.weight.shape[0] == 10


def test_a_structure_too_long_for_a_header_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="characters"):
        to_text(Structure({}, {"a": CrossSets(tuple(range(10**6)), (0,))}))


CODE = """
import torch
from bad_structures import NAME, STRUCTURE, bad_structures, resized_network
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 2)])

    def forward(self, x, y):
        return self.model[1](torch.relu(self.model[0](x + y)))

def two():
    return Two()
"""


def test_own_code_that_takes_no_images(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(CODE)
    arch = f"{code}:two"
    model = build(Architecture("file", arch)).eval()
    # All names begin as those in wrappers do.
    structure = Structure({"model.0": {"out_features": 3}, "model.1": {"in_features": 3}})
    rebuild(model, structure, lambda *_: torch.ones(_[2]))
    surgeon.save(tmp_path / "two.safetensors", model)
    loaded = surgeon.load(tmp_path / "two.safetensors", arch)
    assert torch.equal(loaded(torch.ones(4), torch.ones(4)), model(torch.ones(4), torch.ones(4)))
