"""Trees of values and tensors in files: what comes back, and what is refused."""

import json
import math
import os
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from surgeon.checkpoint.tree_file import DIGEST_KEY, TREE_KEY, digest, read_tree, write_tree
from surgeon.errors import CheckpointError


def through_a_file(tmp_path: Path, tree: Any) -> Any:
    write_tree(tmp_path / "tree.safetensors", tree)
    return read_tree(tmp_path / "tree.safetensors")


PLAIN: dict[Any, Any] = {
    "text": "ä\n\udcff", "none": None, "truth": [True, False], "whole": 2**80, "exact": 0.1 + 0.2,
    "infinite": (math.inf, -math.inf), 3: {"nested": [[], {}, ()]}, "": "", "x": {"t": 1, "m": 2},
}  # fmt: skip


def test_plain_values_come_back_with_their_types(tmp_path: Path) -> None:
    back = through_a_file(tmp_path, PLAIN)
    assert back == PLAIN
    assert repr(back) == repr(PLAIN)
    assert math.isnan(through_a_file(tmp_path, [math.nan])[0])
    assert through_a_file(tmp_path, (1, 2)) == (1, 2)


def test_subclasses_come_back_as_what_they_are_made_of(tmp_path: Path) -> None:
    back = through_a_file(tmp_path, OrderedDict(a=numpy.float64(0.1)))
    assert back == {"a": 0.1}
    assert type(back) is dict
    assert type(back["a"]) is float


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "scalar": torch.tensor(1, dtype=dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "matrix": torch.randint(0, 2, (3, 4), generator=torch.Generator().manual_seed(0)).to(dtype).t(),
    }
    back = through_a_file(tmp_path, tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], tensor)


def test_nan_keeps_its_bits_and_channels_last_its_order(tmp_path: Path) -> None:
    payload = torch.tensor([0x7FC0_1234, -1], dtype=torch.int32).view(torch.float32)
    images = torch.arange(48.0).view(2, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    back = through_a_file(tmp_path, [payload, images])
    assert torch.equal(back[0].view(torch.int32), payload.view(torch.int32))
    assert torch.equal(back[1], images)
    assert back[1].stride() == images.stride()


def test_tensors_share_nothing_afterwards_and_names_may_meet(tmp_path: Path) -> None:
    shared = torch.ones(2)
    back = through_a_file(tmp_path, {"a": {"b": shared}, "a/b": 2 * shared, "again": shared, "part": shared[:1]})
    back["again"].zero_()
    assert back["a"]["b"].tolist() == [1, 1]
    assert back["a/b"].tolist() == [2, 2]
    assert back["part"].tolist() == [1]


def test_the_states_of_python_s_generators_come_back(tmp_path: Path) -> None:
    state = random.Random(4).getstate()
    other = random.Random(5)
    other.setstate(through_a_file(tmp_path, state))
    assert other.random() == random.Random(4).random()


@pytest.mark.parametrize("value", [{1, 2}, object(), {(1, 2): 3}, {True: 1}, b"bytes", 1j])
def test_other_values_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError):
        write_tree(tmp_path / "tree.safetensors", {"value": value})
    assert not list(tmp_path.iterdir())


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    write_tree(path, {"weights": torch.arange(5.0), "name": "run"})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            back = read_tree(path)
        except CheckpointError:
            continue
        # A space within the padding of the header, say.
        assert torch.equal(back["weights"], torch.arange(5.0))
        assert back["name"] == "run"
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_tree(path)


@pytest.mark.parametrize(
    "text",
    [
        "nothing", "[", "{}", '{"x":"missing"}', '{"x":5}', '{"z":[]}', '{"m":[1]}', '{"m":[[1.5,2]]}',
        '{"m":[[[],2]]}',
        '{"x":"a","c":"a"}', '[{"x":"a"},{"x":"a"}]', '{"c":"a"}', '{"t":5}', "[" * 40 + "]" * 40, "[" * 100_000,
    ],
)  # fmt: skip
def test_what_nobody_wrote_is_refused(tmp_path: Path, text: str) -> None:
    tensors = {"a": torch.ones(2)}
    save_file(tensors, tmp_path / "tree.safetensors", {TREE_KEY: text, DIGEST_KEY: digest(tensors, text)})
    with pytest.raises(CheckpointError, match="damaged, or no file of this kind"):
        read_tree(tmp_path / "tree.safetensors")


def test_a_missing_file_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_tree(tmp_path / "tree.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "tree.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError):
        read_tree(tmp_path / "tree.safetensors")


def test_the_digest_tells_names_shapes_kinds_and_values_apart() -> None:
    one = torch.arange(4, dtype=torch.int32)
    different = [
        {"a": one}, {"b": one}, {"a": one.view(2, 2)}, {"a": one.view(torch.float32)}, {"a": one + 1},
        {"a": one, "b": one},
    ]  # fmt: skip
    digests = [digest(tensors) for tensors in different] + [digest({"a": one}, "text")]
    assert len(set(digests)) == len(digests)
    assert digest({"b": one, "a": one}) == digests[5]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tree.safetensors"
    write_tree(path, [1])

    def fail(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Exception, match="No space left"):
        write_tree(path, [2])
    monkeypatch.undo()
    assert read_tree(path) == [1]
    assert json.dumps(sorted(entry.name for entry in tmp_path.iterdir())) == '["tree.safetensors"]'
