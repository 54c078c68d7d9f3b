"""Files in which many names are of one storage, and the networks that they ask for."""

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from hostile_case import ARCH, CLASSES, whole_state
from torch import nn

import surgeon
from surgeon.checkpoint.construction import SPARE_BYTES, ExcessError, bounded, check_memory, most_bytes
from surgeon.checkpoint.state_dict import stored_bytes
from surgeon.errors import ArchitectureError


def test_a_small_file_makes_no_large_network(tmp_path: Path) -> None:
    """Every tensor is a view of one storage, of less than a megabyte."""
    arguments = {"depth": 60, "embed_dim": 256, "num_heads": 2}
    with torch.device("meta"):
        model = timm.create_model("test_vit", num_classes=3, **arguments)
    largest = max(tensor.numel() for tensor in model.state_dict().values())
    storage = torch.zeros(largest)
    state = {name: storage[: tensor.numel()].view(tensor.shape) for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "one.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "num_classes": 3, "model_args": arguments})
    )
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) > SPARE_BYTES + 4 * storage.nbytes
    began = time.process_time()
    with pytest.raises(ArchitectureError, match="for which the file has no weights"):
        surgeon.load(tmp_path / "one.pt")
    assert time.process_time() - began < 5


def test_each_storage_counts_once() -> None:
    one, other = torch.zeros(10), torch.zeros(3, dtype=torch.float16)
    whole = torch.zeros(8)
    tensors = {"a": one, "b": one, "c": one[2:], "d": one.view(2, 5), "e": other, "f": whole[4:]}
    assert stored_bytes(tensors) == 40 + 6 + 32
    assert most_bytes(tensors) == 4 * 78 + SPARE_BYTES


def test_what_begins_where_an_empty_one_does_counts() -> None:
    """In a safetensors file an empty tensor is where the next one is."""
    storage = torch.arange(3.0)
    tensors = {"a": storage, "b": torch.from_numpy(storage.numpy()[:0])}
    assert tensors["a"].untyped_storage().data_ptr() == tensors["b"].untyped_storage().data_ptr()
    assert stored_bytes(tensors) == stored_bytes(dict(reversed(tensors.items()))) == 12


class Tied(nn.Module):
    """One weight of 4,000 bytes under many names."""

    def __init__(self, names: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 100, bias=False, device="meta") for _ in range(names))
        weight = nn.Parameter(torch.ones(100, 10))
        for layer in self.layers:
            layer.weight = weight
        table = torch.zeros(25)
        self.register_buffer("one", table)
        self.register_buffer("other", table)


def test_what_is_tied_in_a_network_counts_once() -> None:
    with bounded(4100):
        model = Tied()
    check_memory(model, 4100)
    with pytest.raises(ExcessError), bounded(4099):
        Tied()
    with pytest.raises(ExcessError):
        check_memory(model, 4099)


def test_what_is_let_go_does_not_make_room() -> None:
    """Another tensor often gets the identity of one that is gone."""

    def build(layers: int) -> None:
        for _ in range(layers):
            nn.Linear(1000, 1, bias=False)

    with bounded(4000 * 9):
        build(9)
    with pytest.raises(ExcessError), bounded(4000 * 9):
        build(10)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_network_with_tied_weights_is_loaded(tmp_path: Path, zipped: bool) -> None:
    """All vectors of one length have one storage, and some others are views of it."""
    vectors = {len(tensor): torch.rand(len(tensor)) for tensor in whole_state().values() if tensor.dim() == 1}
    state = {name: vectors[len(tensor)] if tensor.dim() == 1 else tensor for name, tensor in whole_state().items()}
    state["classifier.bias"] = max(vectors.values(), key=len)[:CLASSES]
    torch.save(state, tmp_path / "one.pt", _use_new_zipfile_serialization=zipped)
    found = surgeon.load(tmp_path / "one.pt", ARCH).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
