"""Reading checkpoints: what is accepted, what it is turned into, and what is refused."""

import argparse
import gzip
import hashlib
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from surgeon.checkpoint.read import read
from surgeon.errors import CheckpointError
from surgeon.structure import ATTENDING

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "checkpoints"
TENSORS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "bn.bias": torch.tensor([1.5, -2.0])}


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(path) in caught.value.problem
    assert caught.value.remedy.endswith(".")
    return caught.value.problem


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor] = TENSORS) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_only_layers_of_which_it_is_said_plainly_have_cross_attention(tmp_path: Path) -> None:
    state = OrderedDict(TENSORS)
    said = {"conv": {ATTENDING: True}, 7: {ATTENDING: True}, "bn": 3, "one": {ATTENDING: 1}, "two": {}}
    vars(state)["_metadata"] = said
    torch.save(state, tmp_path / "one.pth")
    assert read(tmp_path / "one.pth").attending == ("conv",)


def test_a_tensor_may_be_called_as_what_state_dicts_are_under(tmp_path: Path) -> None:
    torch.save(TENSORS | {"net": torch.ones(2)}, tmp_path / "one.pth")
    assert _same(read(tmp_path / "one.pth").tensors, TENSORS | {"net": torch.ones(2)})


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".tar", ".bin", ".PTH"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_every_suffix_and_both_formats(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read(path)
    assert _same(checkpoint.tensors)
    assert checkpoint.path == path
    assert checkpoint.metadata == {}
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(TENSORS, path, {"architecture": "resnet18"})
    checkpoint = read(path)
    assert _same(dict(sorted(checkpoint.tensors.items(), reverse=True)))
    assert checkpoint.metadata == {"architecture": "resnet18"}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "state_dict_ema", "model_ema", "net"])
def test_nested_state_dict(tmp_path: Path, key: str) -> None:
    path = tmp_path / "net.pt"
    torch.save({"epoch": 3, "best": 0.5, key: OrderedDict(TENSORS), "optimizer": {"state": {}}}, path)
    checkpoint = read(path)
    assert _same(checkpoint.tensors)
    assert checkpoint.nested_under == key


def test_averaged_weights_are_preferred_as_timm_prefers_them(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"w": torch.ones(1)}, "model_ema": None}, path)
    assert read(path).tensors["w"].item() == 1


@pytest.mark.parametrize(("key", "value"), [("state_dict", 0), ("state_dict_ema", 1)])
def test_one_of_several_sets_of_weights_is_chosen_by_its_key(tmp_path: Path, key: str, value: int) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"w": torch.ones(1)}}, path)
    checkpoint = read(path, key)
    assert checkpoint.tensors["w"].item() == value
    assert checkpoint.nested_under == key
    assert checkpoint.notes == ()
    (note,) = read(path).notes
    assert "state_dict_ema are taken, and not those under state_dict." in note


def test_the_key_may_be_any_and_lead_deeper(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": TENSORS, "swa": {"net": {"w": torch.ones(1)}}, "run.1": {"w": torch.zeros(1)}}, path)
    assert list(read(path, "swa").tensors) == list(read(path, "swa.net").tensors) == ["w"]
    assert read(path, "run.1").tensors["w"].item() == 0
    assert _same(read(path).tensors)


@pytest.mark.parametrize("key", ["model_ema", "epoch", "model.w", "model.w.x", ""])
def test_a_key_without_weights_is_refused_and_the_others_are_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": {"w": torch.ones(1)}, "net": {"w": torch.ones(1)}, "epoch": 3, "optimizer": {"lr": 1}}, path)
    with pytest.raises(CheckpointError, match=f"no weights under the key '{key}'") as caught:
        read(path, key)
    assert caught.value.remedy == "Choose one of model, net."


def test_a_key_for_a_file_with_one_set_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    with pytest.raises(CheckpointError, match="no weights under the key 'model'") as caught:
        read(path, "model")
    assert "Leave the key out" in caught.value.remedy


def test_settings_under_a_wrappers_name_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": {"name": "resnet18", "depth": 18}, "net": TENSORS}, path)
    checkpoint = read(path)
    assert _same(checkpoint.tensors)
    assert checkpoint.notes == ()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.safetensors"
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
    assert _same(read(path).tensors)
    for length in range(1, 40):
        # The first byte of the file is the header's length, which may be that of a pickle.
        other = tmp_path / "net.pth"
        safetensors.torch.save_file(TENSORS, other, {"x": "y" * length})
        assert _same(dict(sorted(read(other).tensors.items(), reverse=True)))
        assert read(other).metadata == {"x": "y" * length}


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (gzip.compress(b"x" * 99, mtime=0), "compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (b"GGUF" + bytes(50), "a GGUF file"),
        (b"\xef\xbb\xbf\r\n  <HTML>", "a web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image"),
        (b"\xfd7zXZ\0" + bytes(50), "compressed with xz"),
    ],
)
def test_files_of_other_kinds_are_called_what_they_are(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert f"is {what}" in _refusal(path)


def test_a_header_whose_length_looks_like_another_kind_is_a_header(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x8B1F)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07")
    assert path.read_bytes().startswith(b"\x1f\x8b")
    assert read(path).tensors["a"].tolist() == [7]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bytes(4096), "does not begin as a file of torch.save does"),
        (b"Plain text", "does not begin as a file of torch.save does"),
        (b"(lp0\nI1\na.", "does not begin as a file of torch.save does"),
        (pickle.dumps({"a": 1}, protocol=4), "it is of protocol 4, and torch.save writes 2"),
    ],
)
def test_what_is_none_of_torchs_is_no_state_dict_with_a_wrong_step(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(content)
    assert says in _refusal(path)


def test_an_archive_of_anything_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(1000))
    assert "is a zip archive without the pickle" in _refusal(path)
    with tarfile.open(path, "w") as old:
        old.addfile(tarfile.TarInfo("x"))
    assert "is a tar archive" in _refusal(path)


def test_nested_twice(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": {"state_dict": TENSORS}}, path)
    checkpoint = read(path)
    assert _same(checkpoint.tensors)
    assert checkpoint.nested_under == "model.state_dict"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model."])
def test_prefixes_that_all_names_carry_are_stripped(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "net.pt"
    torch.save({prefix + name: tensor for name, tensor in TENSORS.items()}, path)
    assert _same(read(path).tensors)


def test_a_prefix_that_one_name_lacks_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"module.a": torch.zeros(1), "module.model.b": torch.zeros(1), "model.c": torch.zeros(1)}, path)
    assert list(read(path).tensors) == ["module.a", "module.model.b", "model.c"]


def test_a_prefix_is_not_stripped_down_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"module.": torch.zeros(1)}, path)
    assert list(read(path).tensors) == ["module."]


def test_the_arguments_of_timms_trainer_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "net.pth.tar"
    torch.save({"state_dict": TENSORS, "args": argparse.Namespace(model="resnet18")}, path)
    assert _same(read(path).tensors)


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, path)
    tensor = read(path).tensors["w"]
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pt"
    torch.save({"state_dict": TENSORS, "x": _Harm(tmp_path / "harm")}, path, _use_new_zipfile_serialization=zipped)
    assert "other than tensors" in _refusal(path)
    assert not (tmp_path / "harm").exists()


def test_a_bare_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(pickle.dumps(_Harm(tmp_path / "harm")))
    _refusal(path)
    assert not (tmp_path / "harm").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in _refusal(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    assert "TorchScript" in _refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_torch_files(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "net.pth"
    torch.save({name: tensor.repeat(50, 1) for name, tensor in TENSORS.items()}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    _refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_read_or_refused_but_nothing_else(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(TENSORS, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "net.pt"
    refused = 0
    for position in torch.randint(len(content), (150,), generator=generator).tolist():
        value = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
        try:
            read(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.bin", "net.tar"])
@pytest.mark.parametrize(
    "content", [b"hello, this is no checkpoint at all", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04"]
)
def test_foreign_content(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    _refusal(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {}, "text", torch.zeros(2), {"state_dict": {}}, {3: torch.ones(1)}]
)
def test_content_without_named_tensors(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "net.pt"
    torch.save(content, path)
    _refusal(path)


def test_other_values_among_the_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.ones(1), "epoch": 4}, path)
    assert "epoch" in _refusal(path)


def test_a_dictionary_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    path = tmp_path / "net.pt"
    torch.save(content, path)
    _refusal(path)


def test_sparse_tensors_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"odd.weight": torch.eye(3).to_sparse()}, path)
    assert "_rebuild_sparse_tensor, which no state dict of dense tensors" in _refusal(path)


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.ones(1), "\x1b[31mred": 1}, path)
    assert "\x1b" not in _refusal(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        ({"w": ENTRY | {"data_offsets": [0, 16]}}, bytes(8), "outside the file"),
        ({"w": ENTRY | {"data_offsets": [-8, 0]}}, bytes(8), "outside the file"),
        ({"w": ENTRY | {"data_offsets": [8, 0]}}, bytes(8), "outside the file"),
        ({"w": ENTRY | {"data_offsets": [0, 8, 8]}}, bytes(8), "malformed"),
        ({"w": ENTRY | {"data_offsets": [0.0, 8.0]}}, bytes(8), "malformed"),
        ({"w": ENTRY | {"shape": [2**62]}}, bytes(8), "bytes"),
        ({"w": ENTRY | {"shape": [-1, -2]}}, bytes(8), "malformed"),
        ({"w": ENTRY | {"shape": [True, 2]}}, bytes(8), "malformed"),
        ({"w": ENTRY | {"shape": "2"}}, bytes(8), "malformed"),
        ({"w": ENTRY | {"dtype": "PICKLE"}}, bytes(8), "PICKLE"),
        ({"w": {"dtype": "F32", "shape": [2]}}, bytes(8), "malformed"),
        ({"w": 3}, bytes(8), "malformed"),
        ({"w": ENTRY, "v": ENTRY}, bytes(8), ""),
        ({"w": ENTRY, "__metadata__": {"a": 1}}, bytes(8), "metadata"),
        ({"w": ENTRY, "__metadata__": []}, bytes(8), "metadata"),
        ([], b"", "header"),
        ({}, b"", "no tensor"),
    ],
)
def test_safetensors_headers_are_checked_before_anything_is_read(
    tmp_path: Path, header: Any, data: bytes, why: str
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(_safetensors(json.dumps(header).encode(), data))
    assert why in _refusal(path)


def test_a_safetensors_file_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(_safetensors(json.dumps({"w": ENTRY}).encode(), bytes.fromhex("0000803f000000c0")))
    assert read(path).tensors["w"].tolist() == [1, -2]


@pytest.mark.parametrize(
    "content",
    [
        b"\x01\x02",
        (2**63).to_bytes(8, "little") + b"{}",
        (1000).to_bytes(8, "little") + b"{}",
        _safetensors(b"\xff\xfe{}"),
        _safetensors(b"[" * 100_000),
        _safetensors(b'{"w": NaN}'),
    ],
    ids=["short", "huge", "beyond", "encoding", "deep", "nan"],
)
def test_broken_safetensors_headers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    _refusal(path)


def test_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "outside the file" in _refusal(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "does not exist" in _refusal(tmp_path / "none.pth")
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    assert "is a folder" in _refusal(folder)
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    assert "no regular file" in _refusal(pipe)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    assert "is empty" in _refusal(empty)
    text = tmp_path / "net.npz"
    text.write_bytes(b"x")
    assert ".npz" in _refusal(text)


def test_an_ill_formed_path_is_refused() -> None:
    with pytest.raises(CheckpointError):
        read("a\0b.pth")


def test_reading_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"w": torch.ones(1000)}, path)
    before = path.read_bytes()
    read(path).tensors["w"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(("name", "count"), [("resnet20-12fca82f.th", 97), ("resnet56-4bfd9763.th", 277)])
def test_shared_checkpoints(name: str, count: int) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip("the shared checkpoints are not beside the repository")
    checkpoint = read(path)
    assert len(checkpoint.tensors) == count
    assert checkpoint.nested_under == "state_dict"
    assert checkpoint.tensors["conv1.weight"].shape == (16, 3, 3, 3)
    assert checkpoint.sha256.startswith(path.stem.split("-")[1])
