"""Headers, directories and pickles that hypothesis makes up: each is read, or refused by an error of ours.

`SURGEON_FUZZ_EXAMPLES` says how many of each; what was found once stands beside each test as an example.
"""

import io
import json
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hostile_case import framed, small_state
from hostile_damage import saved
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from surgeon.bounded_json import BoundError, parse
from surgeon.checkpoint.arguments import from_text
from surgeon.checkpoint.pickle_calls import STEPS_OF_ANY_FILE, PickleError
from surgeon.checkpoint.pickle_check import check_pickle
from surgeon.checkpoint.read import read
from surgeon.checkpoint.safetensors_file import ITEM_BYTES, read_header, read_safetensors
from surgeon.errors import CheckpointError, SurgeonError

T = TypeVar("T")

EXAMPLES = int(os.environ.get("SURGEON_FUZZ_EXAMPLES", "40"))
fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 1000, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-2, 20)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*ITEM_BYTES, "F4"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=3) | VALUES,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
    }
)
HEADERS = st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRIES | VALUES, max_size=3) | VALUES


def outcome(deed: Callable[[], T]) -> tuple[str, T | None]:
    """What is refused says why; everything else returns something, or is a fault."""
    try:
        return "", deed()
    except (SurgeonError, PickleError) as error:
        return str(error), None


@fuzzed
@given(header=HEADERS, size=st.integers(0, 20))
@example(header={"w": {"dtype": "F32", "shape": [10**4000] * 3, "data_offsets": [0, 8]}}, size=8)
@example(header={"w": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, size=8)
@example(header={"w": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}, size=8)
@example(header={"\ud800": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}, size=8)
def test_a_header_that_is_taken_is_taken_by_the_library_too(tmp_path: Path, header: Any, size: int) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(framed(json.dumps(header).encode(), bytes(size)))
    refused, header_read = outcome(lambda: read_header(path))
    if header_read is None:
        assert len(refused) < 1000
        return
    kinds = header_read.kinds
    try:
        tensors, _ = read_safetensors(path)
    except CheckpointError:
        # The library is the stricter one: a name that is no text, say.
        return
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: shape for name, (_, shape) in kinds.items()
    }
    assert sum(tensor.nbytes for tensor in tensors.values()) == size


@fuzzed
@given(content=st.binary(max_size=60))
@example(content=b"\x02\0\0\0\0\0\0\0{}")
@example(content=b"\xff" * 8 + b"{}")
def test_any_bytes_as_a_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read(path)


@fuzzed
@given(text=st.text(alphabet='[]{},:"\\ a1', max_size=40))
@example(text='"' + '\\"' * 50)
@example(text='["a,b,c"]')
@example(text='{"a":1,"a":2}')
def test_the_extent_of_json_is_what_is_made_of_it(text: str) -> None:
    """By an independent oracle: what Python makes of the text is counted."""
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises((json.JSONDecodeError, BoundError)):
            parse(text, most=100, deepest=100)
        return
    assert parse(text, most=100, deepest=100) == value
    depth = _depth(value)
    if depth and '"' not in text:
        with pytest.raises(BoundError, match="deeper"):
            parse(text, most=100, deepest=depth - 1)


def _depth(value: Any) -> int:
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(_depth, inner), default=0)
    return 0


@fuzzed
@given(value=VALUES)
@example(value={"a": float("inf")})
@example(value={"num_classes": 2**16 + 1})
def test_arguments(value: Any) -> None:
    refused, arguments = outcome(lambda: from_text(json.dumps(value), "the test", frozenset({70_000})))
    if arguments is None:
        assert len(refused) < 1000
        return
    assert arguments == value
    assert all(abs(one) <= 2**16 or one == 70_000 for one in arguments.values() if isinstance(one, int | float))


def _place(zipped: bool, tensor: torch.Tensor) -> int:
    return SMALL[zipped].index(tensor.numpy().tobytes())


SMALL = {zipped: saved(small_state(), zipped=zipped) for zipped in (True, False)}
PARTS = {
    True: {"a.weight": (0, (0, 24)), "b.bias": (1, (0, 16)), "c.count": (2, (0, 8))},
    False: {"a.weight": (0, (0, 24)), "b.bias": (0, (24, 40))},
}
"""The storage that has a tensor, and between which bytes."""

STORAGES = {
    True: [(at, at + value.nbytes) for value in small_state().values() for at in [_place(True, value)]],
    False: [(_place(False, small_state()["a.weight"]), len(SMALL[False]))],
}
PICKLE = {
    True: (SMALL[True].index(b"\x80\x02"), SMALL[True].index(b"PK\x07\x08")),
    False: (0, STORAGES[False][0][0] - 8),
}


def _at(zipped: bool, what: bytes, after: bytes = b"") -> float:
    """Where it is, as a share of the file."""
    content = SMALL[zipped]
    return (content.index(what, content.index(after)) + 0.5) / len(content)


ONE_KEY = b"X\x01\0\0\x000q\x01a"


@fuzzed
@given(zipped=st.booleans(), place=st.floats(0, 1), kept=st.integers(0, 9), new=st.binary(max_size=9))
@example(zipped=False, place=0.0, kept=0, new=b"\x80\x02})\x85\x85\x85N\x73.")
# A storage that is not listed, one that goes on beyond its record, and one that begins before it.
@example(zipped=False, place=_at(False, ONE_KEY), kept=len(ONE_KEY), new=b"")
@example(zipped=True, place=_at(True, b"K\x04tq\x10Q"), kept=2, new=b"K\x08")
@example(zipped=True, place=_at(True, b"\x3e\0archive/data/0"), kept=1, new=b"\x3a")
@example(zipped=True, place=_at(True, b"\x0e\0\x3e\0archive/data/0"), kept=1, new=b"\x0d")
# A directory that is nowhere.
@example(zipped=True, place=_at(True, b"\0" * 4, b"PK\x06\x07"), kept=12, new=b"\xff" * 12)
def test_changed_files_of_torch(tmp_path: Path, zipped: bool, place: float, kept: int, new: bytes) -> None:
    content = SMALL[zipped]
    start = int(place * len(content))
    path = tmp_path / "one.pth"
    path.write_bytes(content[:start] + new + content[start + kept :])
    refused, checkpoint = outcome(lambda: read(path))
    assert len(refused) < 5000
    if checkpoint is None:
        return
    assert sum(tensor.nbytes for tensor in checkpoint.tensors.values()) <= path.stat().st_size * 4
    blocks = _blocks(zipped, start, min(kept, len(content) - start), new)
    found = {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}
    begin, end = PICKLE[zipped]
    if start + kept <= begin or start >= end:
        assert {name: value.tobytes() for name, value in found.items()} == {
            name: blocks[block][slice(*part)] for name, (block, part) in PARTS[zipped].items()
        }
        assert all(value.shape == small_state()[name].shape for name, value in found.items())
        return
    # A change of the pickle may be one of a name, shape or type; the numbers are those of a storage nevertheless.
    for tensor in checkpoint.tensors.values():
        storage = tensor.untyped_storage()
        assert bytes(storage.tolist()) in blocks


def _blocks(zipped: bool, start: int, kept: int, new: bytes) -> list[bytes]:
    """The storages after a change; where one is then no more than a part of itself, nothing should have been read."""
    content, longer = SMALL[zipped], len(new) - kept
    changed = content[:start] + new + content[start + kept :]
    places = STORAGES[zipped]
    assert not longer or all(start >= end or start + kept <= begin for begin, end in places)
    shifts = (longer if start + kept <= begin else 0 for begin, _ in places)
    return [changed[begin + shift : end + shift] for (begin, end), shift in zip(places, shifts, strict=True)]


PICKLED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3)
    | st.tuples(inner, inner),
    max_leaves=8,
)  # fmt: skip


@fuzzed
@given(value=PICKLED, behind=st.binary(max_size=5))
def test_a_sound_pickle_is_passed_to_its_end(value: Any, behind: bytes) -> None:
    content = pickle.dumps(value, protocol=2)
    assert check_pickle(b"." + content + behind, 1).end == 1 + len(content)


@fuzzed
@given(content=st.binary(max_size=40))
def test_any_bytes_as_a_pickle(content: bytes) -> None:
    refused, end = outcome(lambda: check_pickle(content).end)
    assert len(refused) < 200
    assert end is None or 0 < end <= len(content)


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (b"\x80\x02}\x8a\x09" + b"\x01" * 9 + b"Ns.", "keys"),
        (b"\x80\x02}]\x85Ns.", "keys"),
        (b"\x80\x02})" + b"\x85" * 64 + b"Ns.", "keys"),
        (b"\x80\x02)" + b"\x85" * 2**16 + b".", "tuples in each other"),
        (b"\x80\x02c_codecs\nencode\n)R.", "encode"),
        (b"\x80\x02" + b"(" * 1001 + b".", "deeper than 1000"),
        (b"\x80\x02" + b"N" * (STEPS_OF_ANY_FILE + 2**14) + b".", "steps"),
        (b"\x80\x02" + (b"\x8a\x09" + b"\x01" * 9) * 1001 + b".", "too long"),
        (b"\x80\x04\x8c\x01a.", "of protocol 4, and torch.save writes 2"),
        (b"\x80\x02\x8c\x01a.", "step 0x8c"),
    ],
)
def test_costly_pickles(pickled: bytes, says: str) -> None:
    with pytest.raises(PickleError, match=says):
        check_pickle(pickled)


def test_a_network_is_not_refused(tmp_path: Path) -> None:
    """Training checkpoints: an optimizer counts its parameters, and a schedule its epochs."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    state = {"state_dict": layer.state_dict(), "optimizer": optimizer.state_dict(), "steps": Counter([30, 60])}
    for zipped in (True, False):
        torch.save(state, tmp_path / "one.pt", _use_new_zipfile_serialization=zipped)
        assert list(read(tmp_path / "one.pt").tensors) == ["weight", "bias"]


def test_compressed_archives_are_told(tmp_path: Path) -> None:
    buffer = io.BytesIO(SMALL[True])
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "one.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        read(tmp_path / "one.pth")
