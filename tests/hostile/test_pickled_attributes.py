"""Attributes that a pickle gives what it makes: none stands before a method, or the file would say what is called."""

import argparse
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hostile_calls import START, STORAGE, called, function, tensor, text
from hostile_zips import archive
from torch import nn

from surgeon.checkpoint.pickle_calls import PickleError
from surgeon.checkpoint.pickle_check import check_pickle
from surgeon.checkpoint.read import read
from surgeon.checkpoint.state_dict import unnest
from surgeon.errors import CheckpointError

ORDERED = called("collections.OrderedDict")
STATE = ORDERED + b"(" + text("w") + tensor(4, 1) + b"u"
VALUES = {
    "a number": b"K\x01", "a class of mappings": function("collections.OrderedDict"),
    "a class of tensors": function("torch.Tensor"), "a class of tuples": function("torch.Size"),
    "bytes": function("__builtin__.bytearray"),
}  # fmt: skip
METHODS = ("get", "items", "keys", "values", "__getitem__", "__len__", "__class__", "other", "")


def given(name: str, value: bytes) -> bytes:
    return b"}" + text(name) + value + b"s"


def refused(path: Path, pickled: bytes) -> bool:
    path.write_bytes(archive(START + pickled + b".", STORAGE))
    with pytest.raises(CheckpointError, match=r"attributes that no state dict has|with what no state dict gives it"):
        read(path)
    return True


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_attributes_of_mappings(tmp_path: Path, name: str, value: bytes) -> None:
    """At the top, under a key, and in what torch keeps beside the tensors."""
    shadowed = STATE + given(name, value) + b"b"
    for pickled in (
        shadowed,
        b"}" + text("model") + shadowed + b"s",
        STATE + given("_metadata", ORDERED + given(name, value) + b"b") + b"b",
        STATE + given("_metadata", b"}" + text("") + ORDERED + given(name, value) + b"bs") + b"b",
        # With a sound one before it, and in a state that is an ordered mapping or counts.
        STATE + b"}(" + text("_metadata") + b"}" + text(name) + value + b"ub",
        STATE + called("collections.OrderedDict", b"](](" + text(name) + value + b"ee") + b"b",
        STATE + called("collections.Counter", b"](" + text(name) + b"e") + b"b",
        STATE + called("collections.Counter", given(name, b"K\x01")) + b"b",
    ):  # fmt: skip
        assert refused(tmp_path / "one.pth", pickled)


@pytest.mark.parametrize(
    "key", [b"K\x01", b"K\x01\x85", b"N", text("long" * 99), function("torch.float32")], ids=range(5)
)
def test_attributes_that_are_no_names(tmp_path: Path, key: bytes) -> None:
    assert refused(tmp_path / "one.pth", STATE + b"}" + key + b"K\x01sb")


@pytest.mark.parametrize("value", [b"}", b"N", ORDERED, b"}" + text("") + b"}" + text("version") + b"K\x02ss"])
def test_what_torch_keeps_beside_the_tensors(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "one.pth").write_bytes(archive(START + STATE + given("_metadata", value) + b"b.", STORAGE))
    assert list(read(tmp_path / "one.pth").tensors) == ["w"]


@pytest.mark.parametrize(
    "name",
    [
        "detach", "untyped_storage", "numel", "layout", "device", "requires_grad", "nbytes", "data", "shape", "grad",
        "_backward_hooks", "__class__", "__setstate__", "__array__", "to", "is_quantized",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_attributes_of_tensors(tmp_path: Path, name: str, value: bytes) -> None:
    state, hooks = given(name, value), called("collections.OrderedDict")
    inner = tensor(4, 1)[len(function("torch._utils._rebuild_tensor_v2")) : -1]
    for attributes in (state, b"}" + state + b"\x86", b"N" + state + b"\x86", state + b"}\x86"):
        for one in (
            called("torch._utils._rebuild_parameter_with_state", tensor(4, 1), b"\x89", hooks, attributes),
            called(
                "torch._tensor._rebuild_from_type_v2", function("torch._utils._rebuild_tensor_v2"),
                function("torch.Tensor"), inner, attributes,
            ),
        ):  # fmt: skip
            assert refused(tmp_path / "one.pth", b"}" + text("w") + one + b"s")


@pytest.mark.parametrize("name", ["__setstate__", "__class__", "__dict__", "_get_kwargs", "__reduce_ex__"])
def test_attributes_of_arguments(name: str) -> None:
    """The first of these would be called with the next attributes."""
    space = called("argparse.Namespace")
    with pytest.raises(PickleError, match="attributes"):
        check_pickle(START + space + given(name, VALUES["a class of tensors"]) + b"b}b.")
    check_pickle(START + space + given("data", b"N") + b"b}b.")


@pytest.mark.parametrize("zipped", [True, False])
def test_honest_attributes(tmp_path: Path, zipped: bool) -> None:
    weight = nn.Parameter(torch.ones(2))
    vars(weight).update(no_decay=True, _no_weight_decay=True, sharded=None, param_idx=3)
    buffer = torch.zeros(3)
    vars(buffer)["tag"] = "x"
    state = OrderedDict(w=weight, b=buffer)
    vars(state)["_metadata"] = OrderedDict([("", {"version": 1})])
    content = {"state_dict": state, "args": argparse.Namespace(model="x", data=None, items=[1], _private=2)}
    torch.save(content, tmp_path / "one.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "one.pth").tensors
    assert found["w"].tolist() == [1, 1]
    assert not vars(found["w"])
    assert not vars(found["b"])


def test_methods_are_those_of_the_class(tmp_path: Path) -> None:
    """Whatever else makes such objects: what an object itself has under their names is not called."""

    def never(*_: Any) -> Any:
        raise AssertionError

    weight = nn.Parameter(torch.ones(2))
    vars(weight).update(detach=never, untyped_storage=never, numel=never)
    inner, outer, told = OrderedDict(w=weight), OrderedDict[str, Any](), OrderedDict({"": {}})
    outer["state_dict"] = inner
    for one in (inner, outer, told):
        vars(one).update(get=never, items=never, values=never, keys=never)
    vars(inner)["_metadata"] = told
    assert unnest(outer, tmp_path).tensors["w"].tolist() == [1, 1]
    assert unnest(outer, tmp_path, "state_dict").tensors["w"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="holds a SimpleNamespace"):
        unnest(SimpleNamespace(items=never), tmp_path)
