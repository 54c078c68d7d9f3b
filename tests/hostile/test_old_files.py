"""Files of PyTorch before 1.6: each storage that a tensor has is listed once, is as large as that says, and there."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_calls import START, called, function, number, text
from hostile_pickles import LEGACY_START
from torch import Tensor

from surgeon.checkpoint.pickle_check import check_pickle
from surgeon.checkpoint.read import read
from surgeon.checkpoint.storage_check import StorageError, check_blocks
from surgeon.errors import CheckpointError

KEYS = ["7", "8", "9"]
NUMBERS = {"7": [0.5, 1.5, 2.5, 3.5], "8": [10, 20, 30], "9": [-1.0, -2.0]}
KINDS = {"7": ("Float", "f"), "8": ("Long", "q"), "9": ("Double", "d")}


def block(key: str) -> bytes:
    """How many numbers, and these."""
    numbers = NUMBERS[key]
    return struct.pack(f"<q{len(numbers)}{KINDS[key][1]}", len(numbers), *numbers)


def tensor(key: str, size: int | None = None, storage_size: int | None = None, part: bytes = b"N") -> bytes:
    """Push a vector on the start of a storage."""
    length = len(NUMBERS.get(key, [0.0]))
    kind = function(f"torch.{KINDS.get(key, KINDS['7'])[0]}Storage")
    length = length if storage_size is None else storage_size
    storage = b"(" + text("storage") + kind + text(key) + text("cpu") + number(length) + part + b"tQ"
    axes = b"(" + number(length if size is None else size) + b"t", b"(" + number(1) + b"t"
    hooks = called("collections.OrderedDict")
    return called("torch._utils._rebuild_tensor_v2", storage, number(0), *axes, b"\x89", hooks)


def old(entries: Mapping[str, bytes], keys: Any, blocks: bytes) -> bytes:
    """Return a file."""
    pickled = START + b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u."
    return LEGACY_START + pickled + pickle.dumps(keys, protocol=2) + blocks


ENTRIES = {"a": tensor("7"), "b": tensor("8"), "c": tensor("9")}
BLOCKS = b"".join(map(block, KEYS))


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    return caught.value.problem


def values(path: Path, content: bytes) -> dict[str, list[float]]:
    path.write_bytes(content)
    return {name: value.tolist() for name, value in read(path).tensors.items()}


def test_a_file_that_is_as_it_should_be(tmp_path: Path) -> None:
    wanted = {"a": NUMBERS["7"], "b": NUMBERS["8"], "c": NUMBERS["9"]}
    assert values(tmp_path / "one.pth", old(ENTRIES, KEYS, BLOCKS)) == wanted
    # In any order.
    assert values(tmp_path / "one.pth", old(ENTRIES, KEYS[::-1], b"".join(map(block, KEYS[::-1])))) == wanted


@pytest.mark.parametrize(
    "keys",
    [
        KEYS[:2], KEYS[1:], [], [*KEYS, "7"], ["7", "8", "7"], ["7", "8", "0"], ["7", "8", 9], None, {}, tuple(KEYS),
        [KEYS], [*KEYS, "long" * 99],
    ],
    ids=str,
)  # fmt: skip
def test_a_list_of_other_storages_than_the_tensors_have_is_refused(tmp_path: Path, keys: Any) -> None:
    for blocks in (BLOCKS, b"".join(block(key) for key in KEYS if isinstance(keys, list) and key in keys)):
        said = refusal(tmp_path / "one.pth", old(ENTRIES, keys, blocks))
        assert "lists other storages than its tensors have" in said


def test_keys_that_are_nearly_the_same_are_told_apart(tmp_path: Path) -> None:
    """Half of a surrogate pair each, which is no letter."""
    one, other = (tensor("0").replace(text("0"), b"X\x03\0\0\0\xed\xa0" + last) for last in (b"\x80", b"\x81"))
    blocks = struct.pack("<qf", 1, 2.5)
    said = refusal(tmp_path / "one.pth", old({"a": one, "b": other}, ["\ud800"], blocks))
    assert "lists other storages" in said
    assert values(tmp_path / "one.pth", old({"a": one, "b": other}, ["\ud801", "\ud800"], 2 * blocks)) == {
        "a": [2.5], "b": [2.5],
    }  # fmt: skip


@pytest.mark.parametrize("junk", [b"x", bytes(8), bytes(1000), block("7")], ids=len)
def test_bytes_behind_the_last_storage_are_refused(tmp_path: Path, junk: bytes) -> None:
    said = refusal(tmp_path / "one.pth", old(ENTRIES, KEYS, BLOCKS + junk))
    assert "goes on behind its last storage" in said


@pytest.mark.parametrize("kept", [0, 7, 8, 9, len(BLOCKS) - 17, len(BLOCKS) - 1])
def test_storages_that_are_cut_off_are_refused(tmp_path: Path, kept: int) -> None:
    assert "is truncated or damaged" in refusal(tmp_path / "one.pth", old(ENTRIES, KEYS, BLOCKS[:kept]))


@pytest.mark.parametrize("count", [0, 3, 5, -1, 2**62])
def test_a_block_of_another_size_than_its_storage_is_refused(tmp_path: Path, count: int) -> None:
    blocks = struct.pack("<q", count) + BLOCKS[8:]
    said = refusal(tmp_path / "one.pth", old(ENTRIES, KEYS, blocks))
    assert "not as large as its tensors have it" in said
    # Before PyTorch is asked, which looks at it too.
    storages = check_pickle(START + b"}(" + text("a") + tensor("7") + b"u.").storages
    keys = check_pickle(pickle.dumps(["7"], protocol=2)).value
    check_blocks(block("7"), 0, keys, storages)
    with pytest.raises(StorageError):
        check_blocks(blocks[: len(block("7"))], 0, keys, storages)


@pytest.mark.parametrize("size", [0, 3, 5, 2**40, 2**62, -4])
def test_a_storage_of_several_sizes_is_refused(tmp_path: Path, size: int) -> None:
    """The tensors of the first of them, and the block."""
    entries = {"a": tensor("7"), "d": tensor("7", size=0, storage_size=size)}
    assert "two storages under one key" in refusal(tmp_path / "one.pth", old(entries, ["7"], block("7")))


def test_a_storage_that_is_a_part_of_another_one(tmp_path: Path) -> None:
    """As PyTorch 0.1 wrote them: the key, where it begins and how many numbers it has."""
    part = b"(" + text("70") + number(1) + number(2) + b"t"
    entries = {"a": tensor("7"), "d": tensor("7", size=2, part=part)}
    assert values(tmp_path / "one.pth", old(entries, ["7"], block("7"))) == {"a": [0.5, 1.5, 2.5, 3.5], "d": [1.5, 2.5]}


@pytest.mark.parametrize("zipped", [True, False])
def test_honest_files_of_both_formats(tmp_path: Path, zipped: bool) -> None:
    """Tied tensors, views, empty ones and every type, beside what is no tensor."""
    whole, empty = torch.arange(12.0), torch.empty(0)
    dtypes = [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64,
        torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    ]  # fmt: skip
    tensors: dict[str, Tensor] = {str(dtype): torch.ones(3).to(dtype) for dtype in dtypes}
    tensors |= {
        "whole": whole, "tied": whole, "part": whole[3:], "matrix": whole.view(3, 4).T, "empty": empty,
        "empty too": empty, "no rows": torch.empty(0, 5), "nothing": torch.empty(0, dtype=torch.int64),
        "number": torch.tensor(7), "last": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    path = tmp_path / "one.pth"
    content = {"state_dict": tensors, "epoch": 3, "args": ["x", None, 0.5], "optimizer": {"momentum": whole[:2]}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read(path).tensors
    assert list(found) == list(tensors)
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_empty_storage_may_have_two_types(tmp_path: Path, zipped: bool) -> None:
    """PyTorch 2.8 takes the first for both."""
    empty = torch.empty(0)
    tensors = {"a": empty, "b": empty.view(torch.int32), "c": torch.ones(2)}
    torch.save(tensors, tmp_path / "one.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "one.pth").tensors
    assert {name: value.tolist() for name, value in found.items()} == {"a": [], "b": [], "c": [1, 1]}


def test_types_that_old_files_did_not_have(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor([1, 65535], dtype=torch.uint16), "b": torch.tensor([2**40], dtype=torch.uint64)}
    torch.save(tensors, tmp_path / "one.pth")
    assert all(torch.equal(value, tensors[name]) for name, value in read(tmp_path / "one.pth").tensors.items())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_storage_of_no_tensor(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": {"a": torch.ones(2)}, "x": torch.arange(3.0).storage()}
    torch.save(content, tmp_path / "one.pth", _use_new_zipfile_serialization=zipped)
    assert read(tmp_path / "one.pth").tensors["a"].tolist() == [1, 1]
