"""Every function that a pickle may call, with every kind of argument: read or refused, and at once."""

import argparse
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_calls import (
    DOUBLED,
    MANY,
    START,
    STORAGE,
    WIDE,
    call_cases,
    called,
    function,
    number,
    storage,
    tensor,
    text,
)
from hostile_zips import archive

from surgeon.checkpoint.pickle_calls import CALLS, Budget, PickleError
from surgeon.checkpoint.pickle_check import check_pickle
from surgeon.checkpoint.read import read
from surgeon.errors import CheckpointError

HOOKS = called("collections.OrderedDict")
AXES = b"(K\x04t"
VIEW = (storage(), b"K\x00", AXES, b"(K\x01t")
SOUND = {
    "collections.OrderedDict": (b"](](" + text("a") + b"Nee",),
    "collections.Counter": (b"}" + text("a") + b"K\x02s",),
    "builtins.set": (b"](K\x01K\x02e",),
    "builtins.complex": (b"K\x01", b"K\x02"),
    "builtins.bytearray": (text("a"), text("latin-1")),
    "_codecs.encode": (text("a"), text("latin1")),
    "argparse.Namespace": (),
    "torch.Size": (AXES,),
    "torch.device": (text("cuda"), b"K\x00"),
    "torch.serialization._get_layout": (text("torch.strided"),),
    "torch.nn.parameter.Parameter": (tensor(4, 1), b"\x89"),
    "torch._utils._rebuild_tensor": VIEW,
    "torch._utils._rebuild_tensor_v2": (*VIEW, b"\x89", HOOKS, b"}"),
    "torch._utils._rebuild_tensor_v3": (*VIEW, b"\x89", HOOKS, function("torch.float32"), b"}"),
    "torch._utils._rebuild_parameter": (tensor(4, 1), b"\x89", HOOKS),
    "torch._utils._rebuild_parameter_with_state": (tensor(4, 1), b"\x89", HOOKS, b"}" + text("a") + b"K\x01s"),
    "torch._tensor._rebuild_from_type_v2": (
        function("torch._utils._rebuild_tensor_v2"), function("torch.Tensor"),
        b"(" + b"".join(VIEW) + b"\x89" + HOOKS + b"t", b"}" + text("a") + b"K\x01s",
    ),
}  # fmt: skip
"""Arguments as torch.save gives them."""

KINDS = {
    "none": b"N", "a large number": number(10**13), "a long number": b"\x8a\x09" + b"\x01" * 9,
    "text": text("a" * 1000), "an expanded tensor": WIDE, "a doubled tuple": DOUBLED,
    "a list of a doubled tuple": b"](" + DOUBLED + b"e", "a tuple of large numbers": b"(" + number(MANY) * 3 + b"t",
    "a thousand axes": b"(" + b"K\x01" * 1000 + b"t", "a deep tuple": b")" + b"\x85" * 1000,
    "a list of tensors": b"](" + WIDE + b"e", "a mapping of tensors": b"}" + text("data") + WIDE + b"s",
    "a storage": storage(), "a class": function("torch.Tensor"), "a set": called("__builtin__.set"),
}  # fmt: skip


def wrapped(value: bytes) -> bytes:
    """Return a pickle of a tensor and a value beside it."""
    return START + b"}(" + text("model") + b"}" + text("w") + tensor(4, 1) + b"s" + text("x") + value + b"u."


def test_the_table_is_of_all_functions() -> None:
    assert SOUND.keys() == CALLS.keys()


@pytest.mark.parametrize("name", SOUND)
def test_a_call_as_torch_writes_it_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "one.pth").write_bytes(archive(wrapped(called(name, *SOUND[name])), STORAGE))
    assert list(read(tmp_path / "one.pth").tensors) == ["w"]


@pytest.mark.parametrize("name", SOUND)
def test_a_call_with_anything_else_is_read_or_refused_at_once(tmp_path: Path, name: str) -> None:
    path, sound = tmp_path / "one.pth", SOUND[name]
    calls = [
        called(name, *sound[:at], kind, *sound[at + 1 :]) for at in range(len(sound) + 1) for kind in KINDS.values()
    ]
    calls += [called(name, kind, step=b"\x81") for kind in KINDS.values()]
    refused = 0
    began = time.process_time()
    for one in calls:
        pickled = wrapped(one)
        try:
            check_pickle(pickled)
        except PickleError:
            refused += 1
            continue
        path.write_bytes(archive(pickled, STORAGE))
        try:
            assert list(read(path).tensors) == ["w"]
        except CheckpointError:
            refused += 1
    assert time.process_time() - began < 3
    assert refused > len(calls) / 2


@pytest.mark.parametrize("case", list(call_cases()), ids=lambda case: case.name)
def test_costly_calls_are_refused(tmp_path: Path, case: Any) -> None:
    path = tmp_path / f"one{case.suffix}"
    case.make(path)
    with pytest.raises(CheckpointError, match=case.says):
        read(path)


def test_all_pickles_of_a_file_have_one_budget() -> None:
    budget = Budget(0)
    content = START + b"N" * (budget.steps // 2) + b"."
    check_pickle(content, budget=budget)
    with pytest.raises(PickleError, match="steps"):
        check_pickle(content, budget=budget)


def test_a_large_file_may_take_more_steps() -> None:
    assert Budget(2**30).steps - Budget(0).steps == 2**23


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "extra",
    [
        b"abc\xff" * 30, bytearray(b"abc"), bytearray(), {("top", 1): 0.5}, {1, ("a", 2)}, {torch.float32: 1}, 2**127,
        torch.Size([1, 2]), [torch.device("cpu"), torch.device("cuda", 1)], 1j, torch.strided, Counter("abca"),
        argparse.Namespace(a=[1], b=(1, None)), OrderedDict([((1, 2), 3)]), torch.get_rng_state(),
        torch.ones(1).expand(5), torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, dtype=torch.bfloat16),
    ],
    ids=lambda extra: type(extra).__name__,
)  # fmt: skip
def test_what_trainers_keep_beside_the_weights(tmp_path: Path, extra: Any, zipped: bool) -> None:
    layer = torch.nn.BatchNorm2d(2)
    vars(layer.weight)["no_decay"] = True
    ema = dict(layer.named_parameters())
    content = {"state_dict": layer.state_dict(), "ema": ema, "extra": extra}
    torch.save(content, tmp_path / "one.pth", _use_new_zipfile_serialization=zipped)
    assert list(read(tmp_path / "one.pth").tensors) == list(layer.state_dict())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
@pytest.mark.parametrize("zipped", [True, False])
def test_optimizers_and_schedules(tmp_path: Path, kind: Any, zipped: bool) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = kind(layer.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    states = {"state_dict": layer.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save(states, tmp_path / "one.pth", _use_new_zipfile_serialization=zipped)
    assert list(read(tmp_path / "one.pth").tensors) == ["weight", "bias"]


def test_what_is_refused_is_saved_alone_by_its_maker(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": torch.eye(2).to_sparse()}, tmp_path / "one.pth")
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "one.pth")
    assert "safetensors.torch.save_file(" in caught.value.remedy
    # Advice that is followed in a hurry must not run what the file holds.
    assert "torch.load" not in str(caught.value)
